//! The names that metrics are counted under: routes and servers. A name has one number for as long as the program
//! runs, so that a thread finds its counters by an index, and a reload goes on with those that it had.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// The names there have been, and the next number. Grows with the configurations that were loaded, never with
/// requests.
static NUMBERS: Mutex<Option<HashMap<Arc<str>, usize>>> = Mutex::new(None);

/// A name and its number. Clones count references to the text: give each thread a label of its own.
#[derive(Clone)]
pub struct Label {
    text: Arc<str>,
    number: usize,
}

impl Label {
    /// The label of this text, its memory shared with no other.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = numbers.get_or_insert_default();
        let next = numbers.len();
        let number = match numbers.get(text) {
            Some(number) => *number,
            None => *numbers.entry(text.into()).or_insert(next),
        };
        Self { text: text.into(), number }
    }

    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }
}

impl Deref for Label {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_number() {
        let (a, b, again) = (Label::of("label-a"), Label::of("label-b"), Label::of("label-a"));
        assert_eq!(a.number(), again.number());
        assert_ne!(a.number(), b.number());
        assert_eq!((&*again, again.to_string().as_str()), ("label-a", "label-a"));
    }
}
