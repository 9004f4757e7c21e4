//! Several texts in one, as a query or a command line has them: separated by commas. In each of them a comma is
//! written `\,` and a backslash `\\`; before any other character a backslash stands for itself.

/// Returns the texts of a list, at least one.
///
/// ```
/// use relay_event::list;
///
/// assert_eq!(list::split(r"order.*,a\,b,\"), ["order.*", "a,b", r"\"]);
/// ```
pub fn split(list: &str) -> Vec<String> {
    let (mut texts, mut text) = (Vec::new(), String::new());
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ',' => texts.push(std::mem::take(&mut text)),
            '\\' => text.push(
                characters
                    .next_if(|next| matches!(next, ',' | '\\'))
                    .unwrap_or('\\'),
            ),
            character => text.push(character),
        }
    }
    texts.push(text);
    texts
}

/// Returns a list of these texts.
pub fn join<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let written = |text: &str| text.replace('\\', r"\\").replace(',', r"\,");
    let texts: Vec<String> = texts.into_iter().map(written).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_comma_within_a_text_has_a_backslash_before_it() {
        assert_eq!(split(""), [""]);
        assert_eq!(split("a,,b"), ["a", "", "b"]);
        assert_eq!(split(r"a\,b,c"), ["a,b", "c"]);
        assert_eq!(split(r"a\\,b"), [r"a\", "b"]);
        assert_eq!(split(r"a\b\"), [r"a\b\"]);
        assert_eq!(join(["order.*", "a,b", r"c\"]), r"order.*,a\,b,c\\");
    }

    proptest! {
        #[test]
        fn a_list_is_read_as_it_was_written(texts in prop::collection::vec(r"[a,\\ü]{0,4}", 1..5)) {
            prop_assert_eq!(split(&join(texts.iter().map(String::as_str))), texts);
        }
    }
}
