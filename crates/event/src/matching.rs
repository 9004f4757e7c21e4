//! An index of many type patterns, which finds all that match an event type without asking each.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    ptr,
    str::Split,
};

use crate::{EventType, TypePattern};

/// A set of pairs of a pattern and a value, such as an endpoint's id, that finds the values of all patterns that
/// match an event type.
///
/// It is a trie over the patterns' words. A lookup costs one hash lookup for each word of the type if no
/// pattern has wildcards. With wildcards it visits each node of the trie at most once for each word, however
/// the `#` combine.
#[derive(Debug, Clone)]
pub struct PatternIndex<T> {
    root: Node<T>,
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

impl<T: Clone + Eq + Hash> PatternIndex<T> {
    /// Adds the pair of each pattern and the value. A pair that is there already stays as it is.
    pub fn insert(&mut self, patterns: &[TypePattern], value: &T) {
        for pattern in patterns {
            self.root.insert(words(pattern.as_str()), value);
        }
    }

    /// Removes the pair of each pattern and the value. A pair that is not there is no error.
    pub fn remove(&mut self, patterns: &[TypePattern], value: &T) {
        for pattern in patterns {
            self.root.remove(words(pattern.as_str()), value);
        }
    }

    /// Returns the values that have at least one matching pattern, each once, in no particular order.
    pub fn matching(&self, event_type: &EventType) -> Vec<&T> {
        let ends = self.ends(event_type);
        match ends.as_slice() {
            [] => Vec::new(),
            [end] => end.values.iter().collect(),
            ends => {
                let values: HashSet<&T> = ends.iter().flat_map(|end| &end.values).collect();
                values.into_iter().collect()
            }
        }
    }

    /// The nodes with values whose patterns match.
    ///
    /// A node is reached from its parent alone, so a node that is no `#` is reached at most once for each word of
    /// the type. A `#` takes any further word too, so a node that is one is kept from when it is first reached.
    fn ends(&self, event_type: &EventType) -> Vec<&Node<T>> {
        let mut reached = vec![&self.root];
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
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
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
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    fn patterns(texts: &[&str]) -> Vec<TypePattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn matching(index: &PatternIndex<u32>, event_type: &str) -> Vec<u32> {
        let mut values: Vec<u32> = index
            .matching(&event_type.parse().unwrap())
            .into_iter()
            .copied()
            .collect();
        values.sort_unstable();
        values
    }

    #[test]
    fn a_value_is_found_once_by_any_of_its_patterns() {
        let mut index = PatternIndex::default();
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
        let mut index = PatternIndex::default();
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
        let mut index = PatternIndex::default();
        let (one, other) = (patterns(&["a.*.b", "a.#", "a.#"]), patterns(&["a.*", "c"]));
        index.insert(&one, &1);
        index.insert(&other, &2);
        index.remove(&patterns(&["a.*.b.c", "x.#", "a"]), &1);
        index.remove(&one, &2);
        assert_eq!(matching(&index, "a.x.b"), [1]);
        assert_eq!(matching(&index, "a.x"), [1, 2]);
        index.remove(&one, &1);
        assert_eq!(matching(&index, "a.x"), [2]);
        assert!(index.root.words["a"].any_words.is_none());
        index.remove(&other, &2);
        assert!(index.root.is_empty());
    }

    /// Every way to share the type's 128 words among these wildcards, taken one by one, would take for ever.
    #[test]
    fn the_longest_patterns_with_the_most_wildcards_are_found() {
        let stars = |from: usize, to: usize| vec!["*"; to - from].join(".");
        let mut index = PatternIndex::default();
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

    #[derive(Debug, Clone)]
    enum Change {
        Insert(Vec<TypePattern>),
        /// One of the values that are there.
        Remove(Index),
        Look(EventType),
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            vec(any_pattern(), 1..5).prop_map(Change::Insert),
            any::<Index>().prop_map(Change::Remove),
            any_type().prop_map(Change::Look),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_asking_every_pattern(changes in vec(any_change(), 1..60)) {
            let mut index = PatternIndex::default();
            let mut plain: Vec<(u32, Vec<TypePattern>)> = Vec::new();
            for (value, change) in (0..).zip(changes) {
                match change {
                    Change::Insert(patterns) => {
                        index.insert(&patterns, &value);
                        plain.push((value, patterns));
                    }
                    Change::Remove(_) if plain.is_empty() => {}
                    Change::Remove(which) => {
                        let (value, patterns) = plain.remove(which.index(plain.len()));
                        index.remove(&patterns, &value);
                    }
                    Change::Look(event_type) => {
                        let wants = |patterns: &[TypePattern]| patterns.iter().any(|pattern| pattern.matches(&event_type));
                        let wanted = plain.iter().filter(|(_, patterns)| wants(patterns));
                        let wanted: Vec<u32> = wanted.map(|(value, _)| *value).collect();
                        prop_assert_eq!(matching(&index, event_type.as_str()), wanted);
                    }
                }
            }
            for (value, patterns) in plain {
                index.remove(&patterns, &value);
            }
            prop_assert!(index.root.is_empty());
        }
    }
}
