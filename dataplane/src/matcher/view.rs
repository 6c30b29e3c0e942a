//! What matchers look at, however it was read.

use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method};

use crate::h1::{Head, Known};

/// What matchers look at besides authority and path.
pub(crate) trait RequestView {
    fn method(&self) -> &Method;

    fn query(&self) -> Option<&str>;

    /// Whether it may have a body of any length, as far as its head says.
    fn is_open_ended(&self) -> bool;

    /// The values of a header, line by line.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Shows the name of each line.
    fn names(&self, show: &mut dyn FnMut(&[u8]));
}

/// The lines of a head.
pub(crate) trait Headers {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Shows each line by its name and value.
    fn each(&self, show: &mut dyn FnMut(&[u8], &[u8]));
}

impl RequestView for Parts {
    fn method(&self) -> &Method {
        &self.method
    }

    fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    fn is_open_ended(&self) -> bool {
        !self.headers.contains_key(CONTENT_LENGTH)
    }

    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn names(&self, show: &mut dyn FnMut(&[u8])) {
        self.headers
            .keys()
            .for_each(|name| show(name.as_str().as_bytes()));
    }
}

impl<R: RequestView> RequestView for &R {
    fn method(&self) -> &Method {
        (**self).method()
    }

    fn query(&self) -> Option<&str> {
        (**self).query()
    }

    fn is_open_ended(&self) -> bool {
        (**self).is_open_ended()
    }

    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        (**self).lines(name)
    }

    fn names(&self, show: &mut dyn FnMut(&[u8])) {
        (**self).names(show);
    }
}

impl Headers for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }

    fn each(&self, show: &mut dyn FnMut(&[u8], &[u8])) {
        self.iter()
            .for_each(|(name, value)| show(name.as_str().as_bytes(), value.as_bytes()));
    }
}

impl Headers for Head<'_> {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.named(name.as_str().as_bytes())
    }

    fn each(&self, show: &mut dyn FnMut(&[u8], &[u8])) {
        let fields = self.fields().iter();
        fields
            .filter(|field| field.known != Known::ForwardedClientCert)
            .for_each(|field| show(self.name(field), self.value(field)));
    }
}
