//! Vectors of which there are a hundred thousand, most with a single element: no memory for more.
//!
//! Floor 0.

/// Inserts at `at`. A first or second element gets memory for no more than itself; from then on the
/// vector grows as vectors do.
pub fn insert<T>(into: &mut Vec<T>, at: usize, element: T) {
    if into.len() < 2 {
        into.reserve_exact(1);
    }
    into.insert(at, element);
}

pub fn push<T>(into: &mut Vec<T>, element: T) {
    insert(into, into.len(), element);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_element_takes_the_memory_of_one() {
        let mut vector = Vec::new();
        for (element, capacity) in [(1u64, 1), (2, 2), (3, 4), (4, 4)] {
            push(&mut vector, element);
            assert_eq!((vector.len() as u64, vector.capacity()), (element, capacity));
        }
        insert(&mut vector, 0, 0);
        assert_eq!(vector, [0, 1, 2, 3, 4]);
    }
}
