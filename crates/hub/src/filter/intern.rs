//! Equal filters are one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{BadFilter, Filter};

/// So many filters are kept before anybody looks which of them are used.
const FEW: usize = 64;

/// The filters in use: a hundred thousand subscribers with the same one hold it once.
#[derive(Debug, Default)]
pub struct Filters {
    /// By their text in normal form.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    filters: HashMap<Box<str>, Weak<Filter>>,
    /// At this many it is looked which of them are used, so that one look costs each newcomer little.
    most: usize,
}

impl Filters {
    /// Reads a filter; the one that is there already, if there is an equal one.
    ///
    /// # Errors
    /// When the text is no filter.
    pub fn read(&self, text: &str) -> Result<Arc<Filter>, BadFilter> {
        let filter: Filter = text.parse()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.filters.get(filter.as_str()).and_then(Weak::upgrade) {
            return Ok(same);
        }
        if known.filters.len() >= known.most {
            known.filters.retain(|_, filter| filter.strong_count() > 0);
            known.most = FEW.max(2 * known.filters.len());
        }
        let filter = Arc::new(filter);
        known.filters.insert(filter.as_str().into(), Arc::downgrade(&filter));
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_filters_are_one_and_unused_ones_go() {
        let filters = Filters::default();
        let first = filters.read("a == 1 && b").unwrap();
        let same = filters.read("( tags.a==1.0 ) && tags['b']").unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(filters.read("a ==").is_err());
        for n in 0..1000 {
            filters.read(&format!("a == {n}")).unwrap();
        }
        assert!(filters.known.lock().unwrap().filters.len() <= FEW);
        assert!(Arc::ptr_eq(&first, &filters.read("a == 1 && b").unwrap()));
        let used: Vec<_> = (0..1000).map(|n| filters.read(&format!("a > {n}")).unwrap()).collect();
        assert!(used.iter().all(|filter| Arc::ptr_eq(filter, &filters.read(filter.as_str()).unwrap())));
    }
}
