//! The licence that a repository's card tells in its front matter.

/// The card's name.
pub const CARD: &str = "README.md";

/// A longer card is not read.
pub const MAX_CARD: u64 = 1 << 20;

/// The `license` of the card's front matter: one id, or several joined by ` AND `. `None` if there is none, or it is not made of plain ids.
///
/// Only the form that cards have is understood: a line `license: ID` or `license: [A, B]` at the left margin, or `license:` and lines `- ID`.
pub fn license(card: &str) -> Option<String> {
    let mut lines = front_matter(card)?.lines().map(str::trim_end);
    let value = lines.find_map(|line| line.strip_prefix("license:"))?;
    let value = plain(value);
    let ids: Vec<&str> = if value.is_empty() {
        lines
            .map_while(|line| line.trim_start().strip_prefix("- "))
            .map(plain)
            .collect()
    } else if let Some(list) = value.strip_prefix('[') {
        list.strip_suffix(']')?.split(',').map(plain).collect()
    } else {
        vec![value]
    };
    let fits = !ids.is_empty() && ids.len() <= 16 && ids.iter().copied().all(is_id);
    fits.then(|| ids.join(" AND "))
}

fn front_matter(card: &str) -> Option<&str> {
    let card = card.strip_prefix('\u{feff}').unwrap_or(card);
    let rest = card.strip_prefix("---")?;
    let rest = rest.trim_start_matches([' ', '\r']).strip_prefix('\n')?;
    let end = rest
        .match_indices("---")
        .find(|(at, _)| *at == 0 || rest.as_bytes()[at - 1] == b'\n')?
        .0;
    Some(&rest[..end])
}

/// A scalar without its comment, blanks and quotes.
fn plain(text: &str) -> &str {
    let text = text.trim();
    let text = if text.starts_with('#') {
        ""
    } else {
        text.split(" #").next().unwrap_or(text).trim_end()
    };
    let quoted = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    quoted('"').or_else(|| quoted('\'')).unwrap_or(text)
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_real_cards_are_understood() {
        for (card, wanted) in [
            ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
            ("---\r\ntags:\r\n- a\r\nlicense: mit\r\n---\r\n", "mit"),
            (
                "\u{feff}---\nlicense: \"cc-by-4.0\" # kind\n---\n",
                "cc-by-4.0",
            ),
            (
                "---\nlicense:\n- mit\n- apache-2.0\ntags: [x]\n---\n",
                "mit AND apache-2.0",
            ),
            ("---\nlicense:\n  - mit\n---\n", "mit"),
            (
                "---\nlicense: [mit, 'bsd-3-clause']\n---\n",
                "mit AND bsd-3-clause",
            ),
        ] {
            assert_eq!(license(card).as_deref(), Some(wanted), "{card}");
        }
    }

    #[test]
    fn no_front_matter_no_license_or_a_strange_one_is_none() {
        for card in [
            "",
            "# license: mit",
            "---\nlicense: mit",
            "---\ntags: x\n---\nlicense: mit",
            "---\nlicense: a b\n---\n",
            "---\nlicense: <script>\n---\n",
            "---\n license: mit\n---\n",
            "---\nlicense:\n---\n",
            "----\nlicense: mit\n---\n",
        ] {
            assert_eq!(license(card), None, "{card}");
        }
    }
}
