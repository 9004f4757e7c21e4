//! An index of many selections, which finds all that match an event without asking each.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    hash::Hash,
    ptr,
    str::Split,
};

use crate::{EventAttributes, EventType, Selection, TypePattern};

/// A set of pairs of a selection and a value, such as an endpoint's id, that finds the values of all selections that
/// match an event.
///
/// It is a trie over the words of the patterns, and one more for each source, each subject and each pair of both that
/// a selection is restricted to; an event is looked up in four of them at most. A lookup in a trie costs one hash
/// lookup for each word of the type if no pattern has wildcards. With wildcards it visits each node of the trie at most
/// once for each word, however the `#` combine.
#[derive(Debug, Clone)]
pub struct SelectionIndex<T> {
    /// The selections of events of any source and subject.
    any: Node<T>,
    /// The other selections. No trie is empty.
    restricted: HashMap<Restriction<'static>, Node<T>>,
}

/// The source and the subject that a selection is restricted to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Restriction<'a> {
    source: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
}

impl<'a> Restriction<'a> {
    fn new(source: Option<&'a str>, subject: Option<&'a str>) -> Self {
        Self {
            source: source.map(Cow::Borrowed),
            subject: subject.map(Cow::Borrowed),
        }
    }

    /// Returns the restriction of a selection, if it has one.
    fn of(selection: &'a Selection) -> Option<Self> {
        let restriction = Self::new(selection.source.as_deref(), selection.subject.as_deref());
        (restriction.source.is_some() || restriction.subject.is_some()).then_some(restriction)
    }

    fn into_owned(self) -> Restriction<'static> {
        let owned = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        Restriction {
            source: self.source.map(owned),
            subject: self.subject.map(owned),
        }
    }
}

/// The end of all patterns that begin with the same words.
#[derive(Debug, Clone)]
struct Node<T> {
    /// The next word, where it is neither `*` nor `#`. Boxed, since a map allocates more entries than it has.
    words: HashMap<Box<str>, Box<Self>>,
    /// The next word is `*`.
    any_word: Option<Box<Self>>,
    /// The next word is `#`.
    any_words: Option<Box<Self>>,
    /// The values of the pattern that ends here.
    values: HashSet<T>,
}

impl<T: Clone + Eq + Hash> SelectionIndex<T> {
    /// Adds the pair of the selection and the value. A pair that is there already stays as it is.
    pub fn insert(&mut self, selection: &Selection, value: &T) {
        let root = match Restriction::of(selection) {
            None => &mut self.any,
            Some(restriction) => self.restricted.entry(restriction.into_owned()).or_default(),
        };
        root.insert_all(&selection.types, value);
    }

    /// Removes the pair of the selection and the value. A pair that is not there is no error.
    pub fn remove(&mut self, selection: &Selection, value: &T) {
        let Some(restriction) = Restriction::of(selection) else {
            self.any.remove_all(&selection.types, value);
            return;
        };
        let restriction = restriction.into_owned();
        if let Some(root) = self.restricted.get_mut(&restriction) {
            root.remove_all(&selection.types, value);
            if root.is_empty() {
                self.restricted.remove(&restriction);
            }
        }
    }

    /// Returns the values that have at least one matching selection, each once, in no particular order.
    pub fn matching<'a>(&'a self, event: EventAttributes<'a>) -> Vec<&'a T> {
        let mut ends = self.any.ends(event.event_type);
        for root in self.restricted_to(event) {
            ends.extend(root.ends(event.event_type));
        }
        match ends.as_slice() {
            [] => Vec::new(),
            [end] => end.values.iter().collect(),
            ends => {
                let values: HashSet<&T> = ends.iter().flat_map(|end| &end.values).collect();
                values.into_iter().collect()
            }
        }
    }

    /// The tries of the restrictions that the event meets.
    fn restricted_to<'a>(&'a self, event: EventAttributes<'a>) -> impl Iterator<Item = &'a Node<T>> {
        // With the lifetime of the event, so that a look-up copies no text.
        let restricted: &HashMap<Restriction<'a>, Node<T>> = &self.restricted;
        let source = Some(event.source);
        let by_source = Restriction::new(source, None);
        let by_subject = event.subject.into_iter().flat_map(move |subject| {
            let subject = Some(subject);
            [Restriction::new(None, subject), Restriction::new(source, subject)]
        });
        let restrictions = std::iter::once(by_source).chain(by_subject);
        restrictions.filter_map(|restriction| restricted.get(&restriction))
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.any.is_empty() && self.restricted.is_empty()
    }
}

impl<T> Default for SelectionIndex<T> {
    fn default() -> Self {
        Self {
            any: Node::default(),
            restricted: HashMap::new(),
        }
    }
}

/// The nodes of `#` that a lookup has reached.
struct Kept<'a, T> {
    nodes: Vec<&'a Node<T>>,
    /// The addresses of the same nodes.
    known: HashSet<*const Node<T>>,
}

impl<'a, T> Kept<'a, T> {
    /// Keeps the `#` after each of these nodes, and the `#` after that, for each may take no word at all.
    fn reach(&mut self, nodes: &[&'a Node<T>]) {
        for node in nodes {
            let mut next = node.any_words.as_deref();
            while let Some(node) = next
                && self.known.insert(ptr::from_ref(node))
            {
                self.nodes.push(node);
                next = node.any_words.as_deref();
            }
        }
    }
}

impl<T> Default for Kept<'_, T> {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            known: HashSet::new(),
        }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            words: HashMap::new(),
            any_word: None,
            any_words: None,
            values: HashSet::new(),
        }
    }
}

impl<T> Node<T> {
    /// The nodes with values whose patterns match, in the trie with this root.
    ///
    /// A node is reached from its parent alone, so a node that is no `#` is reached at most once for each word of
    /// the type. A `#` takes any further word too, so a node that is one is kept from when it is first reached.
    fn ends(&self, event_type: &EventType) -> Vec<&Self> {
        let mut reached = vec![self];
        let mut kept = Kept::default();
        kept.reach(&reached);
        for word in words(event_type.as_str()) {
            let from = reached.iter().chain(&kept.nodes);
            reached = from.flat_map(|node| node.after(word)).collect();
            kept.reach(&reached);
        }
        reached.extend(kept.nodes);
        reached.retain(|node| !node.values.is_empty());
        reached
    }

    /// The nodes that one more word of a type leads to.
    fn after(&self, word: &str) -> impl Iterator<Item = &Self> {
        let exact = self.words.get(word).map(Box::as_ref);
        exact.into_iter().chain(self.any_word.as_deref())
    }

    /// Returns true if no pattern ends here or further on.
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.words.is_empty() && self.any_word.is_none() && self.any_words.is_none()
    }
}

impl<T: Clone + Eq + Hash> Node<T> {
    fn insert_all(&mut self, patterns: &[TypePattern], value: &T) {
        for pattern in patterns {
            self.insert(words(pattern.as_str()), value);
        }
    }

    fn remove_all(&mut self, patterns: &[TypePattern], value: &T) {
        for pattern in patterns {
            self.remove(words(pattern.as_str()), value);
        }
    }

    fn insert(&mut self, mut words: Split<'_, char>, value: &T) {
        let next = match words.next() {
            None => {
                self.values.insert(value.clone());
                return;
            }
            Some("*") => self.any_word.get_or_insert_default(),
            Some("#") => self.any_words.get_or_insert_default(),
            Some(word) => self.words.entry(word.into()).or_default(),
        };
        next.insert(words, value);
    }

    /// Removes the value and every node that is empty then.
    fn remove(&mut self, mut words: Split<'_, char>, value: &T) {
        let next = words.next();
        let is_emptied = |node: &mut Box<Self>| {
            node.remove(words, value);
            node.is_empty()
        };
        match next {
            None => drop(self.values.remove(value)),
            Some("*") => drop(self.any_word.take_if(is_emptied)),
            Some("#") => drop(self.any_words.take_if(is_emptied)),
            Some(word) => {
                if self.words.get_mut(word).is_some_and(is_emptied) {
                    self.words.remove(word);
                }
            }
        }
    }
}

fn words(text: &str) -> Split<'_, char> {
    text.split('.')
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        option::of,
        prelude::*,
        sample::{Index, select},
    };

    use super::*;

    fn patterns(texts: &[&str]) -> Selection {
        Selection::of_types(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn matching(index: &SelectionIndex<u32>, event_type: &str) -> Vec<u32> {
        let event_type = event_type.parse().unwrap();
        matching_event(
            index,
            EventAttributes {
                event_type: &event_type,
                source: "/s",
                subject: None,
            },
        )
    }

    fn matching_event(index: &SelectionIndex<u32>, event: EventAttributes<'_>) -> Vec<u32> {
        let mut values: Vec<u32> = index.matching(event).into_iter().copied().collect();
        values.sort_unstable();
        values
    }

    #[test]
    fn a_value_is_found_once_by_any_of_its_patterns() {
        let mut index = SelectionIndex::default();
        index.insert(
            &patterns(&["order.created", "order.*", "#", "order.#", "#.created.#"]),
            &1,
        );
        index.insert(&patterns(&["order.created"]), &2);
        index.insert(&patterns(&["invoice.*"]), &3);
        assert_eq!(matching(&index, "order.created"), [1, 2]);
        assert_eq!(matching(&index, "invoice.sent"), [1, 3]);
        assert_eq!(matching(&index, "invoice"), [1]);
    }

    #[test]
    fn words_may_be_empty() {
        let mut index = SelectionIndex::default();
        for (value, pattern) in (0..).zip([".", "*.", ".*", "#.", "a..b", "#..#"]) {
            index.insert(&patterns(&[pattern]), &value);
        }
        assert_eq!(matching(&index, "."), [0, 1, 2, 3, 5]);
        assert_eq!(matching(&index, "a.."), [3, 5]);
        assert_eq!(matching(&index, "a..b"), [4, 5]);
        assert_eq!(matching(&index, "a.b"), [0; 0]);
    }

    #[test]
    fn nothing_is_left_of_what_is_removed() {
        let mut index = SelectionIndex::default();
        let (one, other) = (patterns(&["a.*.b", "a.#", "a.#"]), patterns(&["a.*", "c"]));
        index.insert(&one, &1);
        index.insert(&other, &2);
        index.remove(&patterns(&["a.*.b.c", "x.#", "a"]), &1);
        index.remove(&one, &2);
        assert_eq!(matching(&index, "a.x.b"), [1]);
        assert_eq!(matching(&index, "a.x"), [1, 2]);
        index.remove(&one, &1);
        assert_eq!(matching(&index, "a.x"), [2]);
        assert!(index.any.words["a"].any_words.is_none());
        index.remove(&other, &2);
        assert!(index.is_empty());
    }

    /// Every way to share the type's 128 words among these wildcards, taken one by one, would take for ever.
    #[test]
    fn the_longest_patterns_with_the_most_wildcards_are_found() {
        let stars = |from: usize, to: usize| vec!["*"; to - from].join(".");
        let mut index = SelectionIndex::default();
        let mut all = Vec::new();
        for value in 0..60 {
            let middle = 2 * value as usize;
            let texts = [
                format!("#.{}.#.{}", stars(0, middle + 1), stars(middle + 1, 125)),
                format!("#.{}.a.#", stars(0, middle + 1)),
            ];
            index.insert(&patterns(&texts.each_ref().map(String::as_str)), &value);
            all.push(value);
        }
        assert_eq!(matching(&index, &["a"; 128].join(".")), all);
        assert_eq!(matching(&index, &["b"; 128].join(".")), all);
        assert_eq!(matching(&index, "b.a"), [0]);
    }

    /// Few words, so that patterns share beginnings and types match; at most two `#`.
    fn any_pattern() -> impl Strategy<Value = TypePattern> {
        let words = vec("[ab*#]?", 1..6);
        let few = words.prop_filter("too many #", |words| {
            words.iter().filter(|w| *w == "#").count() <= 2
        });
        few.prop_filter_map("an empty text", |words| words.join(".").parse().ok())
    }

    fn any_type() -> impl Strategy<Value = EventType> {
        vec("[ab]?", 1..6).prop_filter_map("an empty text", |words| words.join(".").parse().ok())
    }

    fn any_selection() -> impl Strategy<Value = Selection> {
        let source = of(select(&["/s", "/t"][..]));
        let subject = of(select(&["/s", "x", "y"][..]));
        (vec(any_pattern(), 1..5), source, subject).prop_map(|(types, source, subject)| Selection {
            types,
            source: source.map(str::to_owned),
            subject: subject.map(str::to_owned),
        })
    }

    #[derive(Debug, Clone)]
    enum Change {
        Insert(Selection),
        /// One of the values that are there.
        Remove(Index),
        Look(EventType, &'static str, Option<&'static str>),
    }

    fn any_change() -> impl Strategy<Value = Change> {
        let look = (
            any_type(),
            select(&["/s", "/t", "/u"][..]),
            of(select(&["/s", "x", "z"][..])),
        );
        prop_oneof![
            any_selection().prop_map(Change::Insert),
            any::<Index>().prop_map(Change::Remove),
            look.prop_map(|(event_type, source, subject)| Change::Look(event_type, source, subject)),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_asking_every_selection(changes in vec(any_change(), 1..60)) {
            let mut index = SelectionIndex::default();
            let mut plain: Vec<(u32, Selection)> = Vec::new();
            for (value, change) in (0..).zip(changes) {
                match change {
                    Change::Insert(selection) => {
                        index.insert(&selection, &value);
                        plain.push((value, selection));
                    }
                    Change::Remove(_) if plain.is_empty() => {}
                    Change::Remove(which) => {
                        let (value, selection) = plain.remove(which.index(plain.len()));
                        index.remove(&selection, &value);
                    }
                    Change::Look(event_type, source, subject) => {
                        let event = EventAttributes { event_type: &event_type, source, subject };
                        let wanted = plain.iter().filter(|(_, selection)| selection.matches(event));
                        let wanted: Vec<u32> = wanted.map(|(value, _)| *value).collect();
                        prop_assert_eq!(matching_event(&index, event), wanted);
                    }
                }
            }
            for (value, selection) in plain {
                index.remove(&selection, &value);
            }
            prop_assert!(index.is_empty());
        }
    }
}
