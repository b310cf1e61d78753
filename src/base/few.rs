//! Lists of which there are a hundred thousand, most with one element: that one lies in place, without
//! memory of its own.
//!
//! Floor 0.

use std::ops::{Deref, DerefMut};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Few<T> {
    #[default]
    None,
    One(T),
    // A thin pointer: the list is as large as its one element, not as a vector.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<T>>),
}

impl<T> Few<T> {
    pub fn push(&mut self, element: T) {
        self.insert(self.len(), element);
    }

    /// Inserts before the element at `at`; at the end if `at` is the length.
    pub fn insert(&mut self, at: usize, element: T) {
        assert!(at <= self.len(), "an element follows another");
        match self {
            Few::None => *self = Few::One(element),
            Few::One(_) => {
                let mut all: Vec<T> = std::mem::take(self).into_iter().collect();
                all.insert(at, element);
                *self = Few::Many(Box::new(all));
            }
            Few::Many(all) => all.insert(at, element),
        }
    }

    pub fn remove(&mut self, at: usize) {
        assert!(at < self.len(), "there is such an element");
        match self {
            Few::Many(all) => {
                all.remove(at);
            }
            _ => *self = Few::None,
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(element) => std::slice::from_ref(element),
            Few::Many(all) => all,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Few::None => &mut [],
            Few::One(element) => std::slice::from_mut(element),
            Few::Many(all) => all,
        }
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;
    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Few::None => (None, Vec::new()),
            Few::One(element) => (Some(element), Vec::new()),
            Few::Many(all) => (None, *all),
        };
        one.into_iter().chain(many)
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Few<T> {
        let mut all: Vec<T> = elements.into_iter().collect();
        if all.len() > 1 {
            return Few::Many(Box::new(all));
        }
        all.pop().map_or(Few::None, Few::One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_what_a_vector_does() {
        let mut few = Few::default();
        let mut vector = Vec::new();
        for (at, element) in [(0, 1u64), (0, 2), (1, 3), (3, 4)] {
            few.insert(at, element);
            vector.insert(at, element);
            assert_eq!(few[..], vector[..]);
            assert_eq!(few.clone().into_iter().collect::<Vec<_>>(), vector);
            assert_eq!(vector.iter().copied().collect::<Few<_>>()[..], vector[..]);
        }
        few[3] = 5;
        few.push(6);
        assert_eq!(few[..], [2, 3, 1, 5, 6]);
        for at in [4, 1, 0, 1, 0] {
            few.remove(at);
        }
        assert!(few.is_empty());
    }

    #[test]
    fn one_element_takes_its_own_room() {
        assert_eq!(size_of::<Few<(u64, bool)>>(), size_of::<(u64, bool)>());
        assert_eq!(size_of::<Few<u64>>(), 16);
    }
}
