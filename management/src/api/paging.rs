//! Pages of lists, which are the same for all: a request says `pageSize` and `pageToken`, and an answer with more behind it has
//! `nextPageToken`. Lists that are read whole are cut here; those that Postgres or the tree cuts take the size from here.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::Problem;

const PAGE_SIZE_DEFAULT: usize = 100;
pub(crate) const PAGE_SIZE_MAX: usize = 500;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PageParams {
    pub(crate) page_size: Option<usize>,
    pub(crate) page_token: Option<String>,
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    next: Option<String>,
}

pub(crate) fn page_size(given: Option<usize>) -> Result<usize, Problem> {
    let page_size = given.unwrap_or(PAGE_SIZE_DEFAULT);
    match (1..=PAGE_SIZE_MAX).contains(&page_size) {
        true => Ok(page_size),
        false => Err(Problem::bad_request(format!(
            "pageSize {page_size} is not between 1 and {PAGE_SIZE_MAX}"
        ))),
    }
}

impl PageParams {
    /// The page of a list that is in the order of its keys. A page begins behind a key and not at a number, so that what comes
    /// or goes between two pages shifts nothing; items of one key are told apart by their order.
    pub(crate) fn cut<T, K>(
        &self,
        list: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> K,
    ) -> Result<Page<T>, Problem>
    where
        K: Clone + Ord + Serialize + DeserializeOwned,
    {
        let page_size = page_size(self.page_size)?;
        let behind: Option<(K, usize)> = self.page_token.as_deref().map(place).transpose()?;
        let mut last: Option<(K, usize)> = None;
        let placed = list.into_iter().map(|item| {
            let key = key(&item);
            let nth = match &last {
                Some((before, nth)) if *before == key => nth + 1,
                _ => 0,
            };
            last = Some((key.clone(), nth));
            ((key, nth), item)
        });
        let is_behind = |(at, _): &((K, usize), T)| behind.as_ref().is_none_or(|behind| at > behind);
        let mut left = placed.filter(is_behind);
        let (mut items, mut end) = (Vec::new(), None);
        for (at, item) in left.by_ref().take(page_size) {
            items.push(item);
            end = Some(at);
        }
        let next = match (end, left.next()) {
            (Some(end), Some(_)) => Some(token(&end)),
            _ => None,
        };
        Ok(Page { items, next })
    }
}

impl<T> Page<T> {
    /// Says in the answer that has its items where the next page begins, if there is one.
    pub(crate) fn told_in(&self, mut answer: Value) -> Value {
        if let Some(next) = &self.next {
            answer["nextPageToken"] = next.as_str().into();
        }
        answer
    }
}

/// Opaque to those who send it back, and good in an address as it is.
fn token<P: Serialize>(place: &P) -> String {
    let text = serde_json::to_vec(place).expect("invariant: a key is names and numbers");
    URL_SAFE_NO_PAD.encode(text)
}

fn place<P: DeserializeOwned>(token: &str) -> Result<P, Problem> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    read().ok_or_else(|| Problem::bad_request(format!("pageToken {token:?} is not from this list")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cmp::Reverse;

    use serde_json::json;

    use super::*;

    fn page(size: usize, token: Option<&str>) -> PageParams {
        PageParams {
            page_size: Some(size),
            page_token: token.map(str::to_owned),
        }
    }

    /// All pages of that size, one after the other.
    fn pages(size: usize, list: &[&str]) -> Vec<String> {
        let (mut pages, mut token) = (Vec::new(), None);
        loop {
            let wanted = page(size, token.as_deref());
            let cut = wanted
                .cut(list.iter().copied(), |item| item[..1].to_owned())
                .unwrap();
            pages.push(cut.items.join(" "));
            match cut.next {
                Some(next) => token = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let list = ["a", "b1", "b2", "b3", "c"];
        for (size, expected) in [
            (1, vec!["a", "b1", "b2", "b3", "c"]),
            (2, vec!["a b1", "b2 b3", "c"]),
            (5, vec!["a b1 b2 b3 c"]),
            (9, vec!["a b1 b2 b3 c"]),
        ] {
            assert_eq!(pages(size, &list), expected, "{size}");
        }
        assert_eq!(pages(3, &[]), [""]);
    }

    #[test]
    fn what_comes_and_goes_between_two_pages_shifts_nothing() {
        let newest_first = |numbers: &[u32], token: Option<&str>| {
            page(2, token)
                .cut(numbers.to_vec(), |number| Reverse(*number))
                .unwrap()
        };
        let first = newest_first(&[9, 7, 5, 3], None);
        assert_eq!(first.items, [9, 7]);
        let second = newest_first(&[10, 9, 6, 5, 3], first.next.as_deref());
        assert_eq!(second.items, [6, 5], "7 is gone, and 10 is not of an older page");
        let last = newest_first(&[5, 3], second.next.as_deref());
        assert_eq!(
            (last.items.as_slice(), last.next.as_deref()),
            ([3].as_slice(), None)
        );
    }

    #[test]
    fn a_size_or_token_that_cannot_be_meant_is_refused() {
        let names = ["a".to_owned()];
        for wrong in [
            page(0, None),
            page(PAGE_SIZE_MAX + 1, None),
            page(1, Some("x")),
            page(1, Some("W10")),
        ] {
            assert!(
                wrong.cut(names.iter(), |name| (*name).clone()).is_err(),
                "{wrong:?}"
            );
        }
        let told = page(1, None).cut(names.iter(), |name| (*name).clone()).unwrap();
        assert_eq!(told.told_in(json!({})), json!({}));
    }
}
