//! How fast bytes come, and how long the rest takes.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::store::Bytes;

/// Over how long the rate is taken.
const WINDOW: Duration = Duration::from_secs(15);

/// The bytes that came lately.
#[derive(Debug, Default)]
pub(super) struct Meter(VecDeque<(Instant, u64)>);

impl Meter {
    /// Notes how many bytes have come in all.
    pub(super) fn note(&mut self, now: Instant, bytes: u64) {
        self.0.push_back((now, bytes));
        while self.0.len() > 2 && now.duration_since(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
    }

    /// Bytes a second, once something is known of that.
    pub(super) fn rate(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (self.0.front()?, self.0.back()?);
        let seconds = to.duration_since(*from).as_secs_f64();
        (seconds > 0.0).then(|| last.saturating_sub(*first) as f64 / seconds)
    }

    /// How long `rest` bytes take at that rate; nothing if none come.
    pub(super) fn left(&self, rest: u64) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate >= 1.0)?;
        Duration::try_from_secs_f64(rest as f64 / rate).ok()
    }

    /// Rate and time left as a person reads them.
    pub(super) fn text(&self, rest: u64) -> String {
        let Some(rate) = self.rate() else {
            return "beginning".to_owned();
        };
        let rate = Bytes(rate as u64);
        match self.left(rest) {
            Some(left) => format!("{rate}/s, {} left", Span(left)),
            None => format!("{rate}/s"),
        }
    }
}

/// A time in its two largest units.
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_late_and_the_rest_takes_as_long_as_it_says() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        assert_eq!((meter.rate(), meter.left(5)), (None, None));
        // A hundred seconds at 1 byte a second, then at 10.
        for second in 0..=100 {
            meter.note(start + Duration::from_secs(second), second);
        }
        for second in 1..=20 {
            let now = start + Duration::from_secs(100 + second);
            meter.note(now, 100 + second * 10);
        }
        assert_eq!(meter.rate(), Some(10.0));
        assert_eq!(meter.left(100), Some(Duration::from_secs(10)));
        assert_eq!(meter.text(100), "10 bytes/s, 10 s left");
    }

    #[test]
    fn what_stands_still_has_no_end() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.note(start, 7);
        meter.note(start + Duration::from_secs(3), 7);
        assert_eq!(meter.left(5), None);
        assert_eq!(meter.text(5), "0 bytes/s");
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        let text = |seconds| Span(Duration::from_secs(seconds)).to_string();
        assert_eq!(text(59), "59 s");
        assert_eq!(text(61), "1 min 1 s");
        assert_eq!(text(7260), "2 h 1 min");
    }
}
