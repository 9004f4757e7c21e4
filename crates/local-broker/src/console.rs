//! What the server prints.

/// How many lines an error quotes.
const QUOTED: usize = 20;

/// The server says why it gives up shortly before and after these words, then a lot more.
const GIVING_UP: &str = "BOOT FAILED";
const AFTER_GIVING_UP: usize = 8;

/// The lines of the output that say why it ended.
pub(crate) fn last_words(output: &str) -> String {
    let lines: Vec<&str> = output
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let end = lines
        .iter()
        .position(|line| line.contains(GIVING_UP))
        .map_or(lines.len(), |line| lines.len().min(line + AFTER_GIVING_UP));
    lines[end.saturating_sub(QUOTED)..end].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_quoted_without_empty_lines() {
        assert_eq!(last_words(""), "");
        assert_eq!(last_words("a\n\n  \nb\n"), "a\nb");
        let long: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let quoted = last_words(&long);
        assert!(quoted.starts_with("line 80\n") && quoted.ends_with("line 99"));
    }

    #[test]
    fn the_reason_is_found_above_what_follows_it() {
        let noise = "noise\n".repeat(100);
        let quoted = last_words(&format!("{noise}the reason\nBOOT FAILED\nmore of it\n{noise}"));
        assert!(quoted.contains("the reason\nBOOT FAILED\nmore of it"));
        assert_eq!(quoted.lines().count(), QUOTED);
    }
}
