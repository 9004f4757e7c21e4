use clap::Args;
use relay_event::TypePattern;

use crate::api::Query;

/// Which events are meant: those that fit all that is given.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Only those of these types, such as 'order.*'; several separated by commas, or by repeating the
    /// option
    #[arg(
        long = "type",
        visible_alias = "types",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    types: Vec<TypePattern>,

    /// Only those of this source
    #[arg(long)]
    source: Option<String>,

    /// Only those about this
    #[arg(long)]
    subject: Option<String>,
}

impl Filter {
    /// A query for these events.
    pub(crate) fn on(&self, query: Query) -> Query {
        let types: Vec<&str> = self.types.iter().map(TypePattern::as_str).collect();
        query
            .with("types", Some(types.join(",")).filter(|types| !types.is_empty()))
            .with("source", self.source.as_ref())
            .with("subject", self.subject.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        filter: Filter,
    }

    #[test]
    fn patterns_are_separated_by_commas_and_checked() {
        let parse = |types: &str| Line::try_parse_from(["list", "--types", types, "--type", "a"]);
        let types = parse("order.*,#").unwrap().filter.types;
        let expected = ["order.*", "#", "a"].map(|pattern| pattern.parse().unwrap());
        assert_eq!(types, expected);
        assert!(
            parse("order.*,#.#.#")
                .unwrap_err()
                .to_string()
                .contains("a pattern")
        );
    }

    #[test]
    fn all_that_is_given_is_asked_for() {
        let line = ["list", "--types", "order.*,a", "--source", "/s", "--subject", "t"];
        let filter = Line::try_parse_from(line).unwrap().filter;
        let query = filter.on(Query::default());
        assert_eq!(query.to_string(), "types=order.*,a&source=/s&subject=t");
        assert!(Filter::default().on(Query::default()).is_empty());
    }
}
