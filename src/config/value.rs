//! The types of settings: each reads one spelling, and says what it expects.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::store::MinFree;

/// Why a text is no value of its type: what is wrong and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not {expected}")]
pub struct ValueError {
    given: String,
    expected: String,
}

impl ValueError {
    pub(super) fn new(given: &str, expected: impl Into<String>) -> Self {
        Self {
            given: given.chars().take(200).collect(),
            expected: expected.into(),
        }
    }
}

/// A host and a port to listen on. Names are looked up when the listener is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl Listen {
    /// Where a client on the same machine reaches a server that listens here: `0.0.0.0` and `[::]` become the loopback address.
    pub fn local(&self) -> Self {
        let host = match self.host.as_str() {
            "0.0.0.0" => "127.0.0.1".to_owned(),
            host => match host.parse::<IpAddr>() {
                Ok(IpAddr::V6(address)) if address.is_unspecified() => "::1".to_owned(),
                _ => host.to_owned(),
            },
        };
        Self {
            host,
            port: self.port,
        }
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fail = || {
            ValueError::new(
                text,
                "HOST:PORT, such as 127.0.0.1:5000, or 0.0.0.0:5000 for every address",
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(fail)?;
        let port = port.parse().map_err(|_| fail())?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && host.bytes().all(is_host_byte) => host,
            _ => return Err(fail()),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(Self(true)),
            "false" | "0" | "no" | "off" => Ok(Self(false)),
            _ => Err(ValueError::new(text, "true or false")),
        }
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

impl FromStr for Size {
    type Err = ValueError;

    /// A whole number and a unit: B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, in any case; without one, bytes.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start().to_ascii_lowercase();
        let factor = match unit.as_str() {
            "" => Some(1),
            unit => UNITS.iter().find(|(name, _)| *name == unit).map(|u| u.1),
        };
        let bytes = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| {
            ValueError::new(
                text,
                "a size: a whole number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, such as 128MiB",
            )
        })
    }
}

/// In the largest binary unit that it is a whole number of.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match units.into_iter().find(|(shift, _)| whole(*shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// How much of a disk: a size, or hundredths of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(pub MinFree);

impl FromStr for Share {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let share = match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.trim_end().parse().ok().filter(|p| *p <= 90);
                percent.map(MinFree::Percent)
            }
            None => text.parse::<Size>().ok().map(|s| MinFree::Bytes(s.0)),
        };
        share.map(Self).ok_or_else(|| {
            ValueError::new(
                text,
                "a size such as 20GiB, or whole hundredths of the disk from 0% to 90%",
            )
        })
    }
}

/// A length of time of at most a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(pub Duration);

impl FromStr for Time {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        humantime::parse_duration(text)
            .ok()
            .filter(|time| *time <= Duration::from_secs(366 * 24 * 3600))
            .map(Self)
            .ok_or_else(|| {
                ValueError::new(
                    text,
                    "a length of time with its unit, such as 500ms, 30s, 5m or 1h 30m (at most a year)",
                )
            })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Count(pub usize);

impl FromStr for Count {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = text.parse().map(Self);
        number.map_err(|_| ValueError::new(text, "a whole number"))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// A line an event, for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(ValueError::new(text, "a log format: 'text' or 'json'")),
        }
    }
}

/// What is logged: directives that `tracing-subscriber` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives.
    pub fn directives(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = ValueError;

    /// A bare level is for this program's own events; of the libraries beneath, whose events could hold addresses that are
    /// better not logged, only warnings pass. Whoever writes directives gets what they say.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let level = text.trim().to_ascii_lowercase();
        let directives = match level.as_str() {
            "off" | "error" | "warn" => level,
            "info" | "debug" | "trace" => format!("warn,hf_oci={level}"),
            _ => text.to_owned(),
        };
        let expected = "a level (error, warn, info, debug, trace, off) or a filter such as warn,hf_oci::fill=debug";
        let bare = !directives.contains(['=', ',', '[']);
        let known = matches!(directives.as_str(), "off" | "error" | "warn");
        match EnvFilter::try_new(&directives) {
            Ok(_) if known || !bare => Ok(Self(directives)),
            _ => Err(ValueError::new(text, expected)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("128MiB", 128 << 20),
            ("128 mib", 128 << 20),
            ("1TiB", 1 << 40),
            ("5GB", 5_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "MiB",
            "-1MiB",
            "1.5GiB",
            "128M",
            "1 MiB x",
            "99999999TiB",
            "1e9",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_prints_as_it_is_written() {
        for text in ["128MiB", "1GiB", "1000B", "3KiB", "2TiB", "0B"] {
            assert_eq!(
                text.parse::<Size>().map(|s| s.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn a_share_of_the_disk_is_a_size_or_hundredths() {
        for (text, share) in [
            ("5%", MinFree::Percent(5)),
            ("90 %", MinFree::Percent(90)),
            ("0%", MinFree::Percent(0)),
            ("20GiB", MinFree::Bytes(20 << 30)),
            ("0", MinFree::Bytes(0)),
        ] {
            assert_eq!(text.parse(), Ok(Share(share)), "{text}");
        }
        for text in ["", "%", "91%", "-1%", "5.5%", "5 percent"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        for text in ["127.0.0.1:5000", "localhost:0", "[::]:5000", "proxy_1:80"] {
            assert_eq!(
                text.parse::<Listen>().map(|l| l.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "",
            "5000",
            ":5000",
            "localhost",
            "::1:5000",
            "[x]:1",
            "a:65536",
            "http://a:1",
            "a/b:1",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_the_loopback() {
        for (listen, local) in [
            ("0.0.0.0:5000", "127.0.0.1:5000"),
            ("[::]:5000", "[::1]:5000"),
            ("10.1.2.3:80", "10.1.2.3:80"),
            ("localhost:80", "localhost:80"),
        ] {
            assert_eq!(
                listen.parse::<Listen>().expect(listen).local().to_string(),
                local
            );
        }
    }

    #[test]
    fn switches_read_what_the_hubs_own_clients_read() {
        for (text, on) in [("1", true), ("YES", true), ("On", true), ("true", true)] {
            assert_eq!(text.parse(), Ok(Switch(on)), "{text}");
        }
        for (text, on) in [
            ("0", false),
            ("no", false),
            ("OFF", false),
            ("false", false),
        ] {
            assert_eq!(text.parse(), Ok(Switch(on)), "{text}");
        }
        for text in ["", "2", "maybe"] {
            assert!(text.parse::<Switch>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_want_a_unit() {
        assert_eq!("1h 30m".parse(), Ok(Time(Duration::from_secs(5400))));
        for text in ["", "300", "5 apples", "2years", "-1s"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_level_is_for_our_own_events() {
        let directives = |text: &str| text.parse::<LogFilter>().map(|f| f.0);
        assert_eq!(directives("DEBUG"), Ok("warn,hf_oci=debug".into()));
        assert_eq!(directives("warn"), Ok("warn".into()));
        assert_eq!(
            directives("info,hyper=trace"),
            Ok("info,hyper=trace".into())
        );
        assert!(directives("loud").is_err());
        assert!(directives("hf_oci=loud").is_err());
    }
}
