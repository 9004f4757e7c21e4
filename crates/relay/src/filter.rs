use std::str::FromStr;

use clap::Args;
use relay_event::{Invalid, TypePattern, list};

use crate::api::Query;

/// Which events are meant: those that fit all that is given.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Only those of these types, such as 'order.*'; several separated by commas, or by repeating the
    /// option. A comma within a type is written '\,'
    #[arg(long = "type", visible_alias = "types", value_name = "PATTERN")]
    types: Vec<Patterns>,

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
        let types = list::join(Patterns::all(&self.types).map(TypePattern::as_str));
        query
            .with("types", Some(types).filter(|types| !types.is_empty()))
            .with("source", self.source.as_ref())
            .with("subject", self.subject.as_ref())
    }
}

/// Patterns as one value of an option, separated by commas.
#[derive(Debug, Clone)]
pub(crate) struct Patterns(Vec<TypePattern>);

impl Patterns {
    /// The patterns of all values of an option.
    pub(crate) fn all(values: &[Self]) -> impl Iterator<Item = &TypePattern> {
        values.iter().flat_map(|patterns| &patterns.0)
    }
}

impl FromStr for Patterns {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let patterns = list::split(text);
        patterns
            .iter()
            .map(|pattern| pattern.parse())
            .collect::<Result<_, _>>()
            .map(Self)
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
        let types = parse(r"order.*,#,b\,c").unwrap().filter.types;
        let types: Vec<&str> = Patterns::all(&types).map(TypePattern::as_str).collect();
        assert_eq!(types, ["order.*", "#", "b,c", "a"]);
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
        let line = ["list", "--types", r"a\,b,c\\", "--type", "d"];
        let filter = Line::try_parse_from(line).unwrap().filter;
        assert_eq!(filter.on(Query::default()).to_string(), r"types=a\,b,c\\,d");
        assert!(Filter::default().on(Query::default()).is_empty());
    }
}
