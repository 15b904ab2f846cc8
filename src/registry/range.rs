//! The Range header (RFC 9110, section 14): read first, resolved against a size later. Pure.
//!
//! * What is not a set of byte ranges at all is ignored: the whole is served.
//! * A single range that is reversed (`500-0`) or past the end is unsatisfiable, and left out of a set; a set of nothing else is 416.
//! * Ranges that overlap or touch become one, so no byte is served twice, whatever is asked. The others keep their order.
//! * A set of more than [`MAX_RANGES`] is refused with 400: the eStargz snapshotter then asks for single ranges.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::RANGE;

/// The most ranges that one header may ask for.
pub const MAX_RANGES: usize = 1000;

/// A set of byte ranges as a header spells it; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Spec>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// `FIRST-LAST`, both inclusive; perhaps reversed.
    Closed(u64, u64),
    /// `FIRST-`
    From(u64),
    /// `-LENGTH`: so many bytes at the end.
    Suffix(u64),
}

/// A header that asks for more than [`MAX_RANGES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Range header asks for more than {MAX_RANGES} ranges; ask for fewer")]
pub struct TooMany;

/// What a set means for a blob of a certain size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Everything, as if nothing had been asked.
    Whole,
    /// These bytes: at least one range, none empty, no two overlapping or touching.
    Parts(Vec<Range<u64>>),
    /// Nothing of it exists: 416.
    Unsatisfiable,
}

impl RangeSet {
    /// The set that the headers ask for; `None` if they ask for no range, or for none that can be understood.
    ///
    /// Range is not a list header: two of them are none.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, TooMany> {
        let mut lines = headers.get_all(RANGE).iter();
        match (lines.next().map(|line| line.to_str()), lines.next()) {
            (Some(Ok(line)), None) => Self::parse(line),
            _ => Ok(None),
        }
    }

    /// Reads the value of the header.
    pub fn parse(header: &str) -> Result<Option<Self>, TooMany> {
        let Some((unit, set)) = header.split_once('=') else {
            return Ok(None);
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Ok(None);
        }
        let mut specs = Vec::new();
        // Empty elements of a list are to be ignored (RFC 9110, section 5.6.1.2).
        for part in set.split(',').map(trim).filter(|part| !part.is_empty()) {
            let Some(spec) = Spec::parse(part) else {
                return Ok(None);
            };
            if specs.len() == MAX_RANGES {
                return Err(TooMany);
            }
            specs.push(spec);
        }
        Ok((!specs.is_empty()).then_some(Self(specs)))
    }

    /// What the set means for `size` bytes.
    pub fn resolve(&self, size: u64) -> Resolved {
        if size == 0 && self.0.iter().any(|s| matches!(s, Spec::Suffix(1..))) {
            // The last so many bytes of nothing are satisfiable, but no Content-Range can say so.
            return Resolved::Whole;
        }
        let parts: Vec<_> = self.0.iter().filter_map(|s| s.resolve(size)).collect();
        if parts.is_empty() {
            Resolved::Unsatisfiable
        } else {
            Resolved::Parts(coalesce(parts))
        }
    }
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        Some(match (first, last) {
            ("", last) => Self::Suffix(number(last)?),
            (first, "") => Self::From(number(first)?),
            (first, last) => Self::Closed(number(first)?, number(last)?),
        })
    }

    fn resolve(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Closed(first, last) if first <= last => first..last.saturating_add(1).min(size),
            Self::Closed(..) => return None,
            Self::From(first) => first..size,
            Self::Suffix(length) => size - length.min(size)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Optional white space of a header.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// Digits only; a number too large to hold is past every end.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Joins ranges that overlap or touch. A joined range stands where the first of its members stood.
fn coalesce(parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut parts: Vec<(usize, Range<u64>)> = parts.into_iter().enumerate().collect();
    parts.sort_by_key(|(_, range)| range.start);
    let mut joined: Vec<(usize, Range<u64>)> = Vec::with_capacity(parts.len());
    for (place, range) in parts {
        match joined.last_mut() {
            Some((first, last)) if range.start <= last.end => {
                last.end = last.end.max(range.end);
                *first = place.min(*first);
            }
            _ => joined.push((place, range)),
        }
    }
    joined.sort_by_key(|(place, _)| *place);
    joined.into_iter().map(|(_, range)| range).collect()
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "lists of one range are meant"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(header: &str, size: u64) -> Option<Resolved> {
        RangeSet::parse(header)
            .unwrap()
            .map(|set| set.resolve(size))
    }

    fn parts(header: &str, size: u64) -> Vec<Range<u64>> {
        match resolved(header, size) {
            Some(Resolved::Parts(parts)) => parts,
            other => panic!("{header}: {other:?}"),
        }
    }

    #[test]
    fn the_forms_that_clients_send_are_understood() {
        assert_eq!(parts("bytes=500-1499", 2000), [500..1500]);
        assert_eq!(parts("bytes=0-1", 2000), [0..2]);
        assert_eq!(parts("bytes=500-", 2000), [500..2000]);
        assert_eq!(parts("bytes=-500", 2000), [1500..2000]);
        assert_eq!(parts("bytes=-5000", 2000), [0..2000]);
        assert_eq!(parts("bytes=1000-5000", 2000), [1000..2000]);
        assert_eq!(parts("bytes=1999-1999", 2000), [1999..2000]);
        assert_eq!(
            parts("bytes=50000-99999,150000-430000", 1 << 20),
            [50000..100000, 150000..430001]
        );
    }

    #[test]
    fn case_white_space_and_empty_elements_do_not_matter() {
        assert_eq!(parts("Bytes=0-1", 9), [0..2]);
        assert_eq!(parts("bytes=\t0-1 , ,, 4-5,", 9), [0..2, 4..6]);
    }

    #[test]
    fn what_is_no_byte_range_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=0-1,x",
            "bytes=1",
            "bytes=--1",
            "bytes=+1-2",
            "bytes=0-1-2",
            "bytes=0 - 1",
            "items=0-1",
            "bytes 0-1",
            "bytes=0x1-2",
            "bytes=٣-٤",
        ] {
            assert_eq!(RangeSet::parse(header), Ok(None), "{header}");
        }
    }

    #[test]
    fn reversed_and_past_the_end_is_unsatisfiable() {
        for header in [
            "bytes=500-0",
            "bytes=2000-",
            "bytes=2000-2001",
            "bytes=-0",
            "bytes=5000-6000,500-0",
            "bytes=99999999999999999999999-",
        ] {
            assert_eq!(
                resolved(header, 2000),
                Some(Resolved::Unsatisfiable),
                "{header}"
            );
        }
        // Beside others they are left out.
        assert_eq!(parts("bytes=500-0,5000-,7-8", 2000), [7..9]);
    }

    #[test]
    fn numbers_larger_than_any_size_are_clamped() {
        assert_eq!(parts("bytes=1-99999999999999999999999", 5), [1..5]);
        assert_eq!(parts("bytes=-99999999999999999999999", 5), [0..5]);
        assert_eq!(parts("bytes=0-18446744073709551615", 5), [0..5]);
    }

    #[test]
    fn an_empty_blob_has_no_ranges() {
        assert_eq!(resolved("bytes=0-", 0), Some(Resolved::Unsatisfiable));
        assert_eq!(resolved("bytes=-5", 0), Some(Resolved::Whole));
    }

    #[test]
    fn touching_and_overlapping_ranges_become_one_and_order_is_kept() {
        assert_eq!(parts("bytes=0-1,2-3", 9), [0..4]);
        assert_eq!(parts("bytes=2-3,0-1", 9), [0..4]);
        assert_eq!(parts("bytes=0-5,3-8", 9), [0..9]);
        assert_eq!(parts("bytes=7-8,0-1", 9), [7..9, 0..2]);
        assert_eq!(parts("bytes=7-7,0-1,8-8,4-4", 9), [7..9, 0..2, 4..5]);
        assert_eq!(parts("bytes=0-,0-,0-,-1", 9), [0..9]);
    }

    #[test]
    fn a_thousand_ranges_are_enough() {
        let many = |n: usize| {
            let set: Vec<_> = (0..n).map(|i| format!("{}-{0}", i * 2)).collect();
            RangeSet::parse(&format!("bytes={}", set.join(",")))
        };
        assert!(matches!(many(MAX_RANGES), Ok(Some(_))));
        assert_eq!(many(MAX_RANGES + 1), Err(TooMany));
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(RANGE, "bytes=0-1".parse().unwrap());
        assert!(matches!(RangeSet::from_headers(&headers), Ok(Some(_))));
        headers.append(RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(RangeSet::from_headers(&headers), Ok(None));
    }

    /// Any spec: its form and its numbers.
    fn spec() -> impl Strategy<Value = (u8, u64, u64)> {
        (0..3_u8, 0..150_u64, 0..150_u64)
    }

    fn spelled((form, a, b): &(u8, u64, u64)) -> String {
        match form {
            0 => format!("{a}-{b}"),
            1 => format!("{a}-"),
            _ => format!("-{a}"),
        }
    }

    fn has((form, a, b): &(u8, u64, u64), at: u64, size: u64) -> bool {
        match form {
            0 => *a <= at && at <= *b,
            1 => *a <= at,
            _ => at + a >= size,
        }
    }

    proptest! {
        /// The parts cover exactly the bytes asked for, each once.
        #[test]
        fn parts_cover_what_a_naive_model_covers(specs in prop::collection::vec(spec(), 1..12), size in 1..120_u64) {
            let header = format!("bytes={}", specs.iter().map(spelled).collect::<Vec<_>>().join(","));
            let wanted: Vec<bool> = (0..size).map(|at| specs.iter().any(|s| has(s, at, size))).collect();
            match resolved(&header, size).unwrap() {
                Resolved::Parts(parts) => {
                    let mut got = vec![false; size as usize];
                    for at in parts.iter().cloned().flatten() {
                        prop_assert!(!got[at as usize], "{header}: byte {at} twice");
                        got[at as usize] = true;
                    }
                    prop_assert!(parts.iter().all(|p| !p.is_empty()));
                    prop_assert_eq!(got, wanted);
                }
                Resolved::Unsatisfiable => prop_assert!(!wanted.contains(&true), "{}", header),
                Resolved::Whole => prop_assert!(false, "{}", header),
            }
        }

        #[test]
        fn no_header_makes_the_parser_panic(header in "(bytes=)?[-0-9, a-z=]{0,60}", size in any::<u64>()) {
            if let Ok(Some(set)) = RangeSet::parse(&header) {
                set.resolve(size);
            }
        }
    }
}
