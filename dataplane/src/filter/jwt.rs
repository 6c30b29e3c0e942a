//! `envoy.filters.http.jwt_authn`: requests carry tokens that issuers have signed, or go no further. What a token says goes on in
//! headers that nobody else may set, and is known to the filters behind this one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::{Method, StatusCode};

use super::{Answer, Facts, Verdict};
use crate::exchange::Flag;
use crate::header_changes::is_read_as;
use crate::json::{Json, at};
use crate::jwks::{KeySet, RemoteKeys, Unverified};
use crate::matcher::{RequestView, RouteMatcher, StringMatcher, Subject};

mod cache;
mod place;
mod token;

use cache::Proven;
pub(crate) use place::Place;
pub(crate) use token::{Flaw, Token, Unproven};

/// Of what was asked for, as much as Envoy repeats in its answer.
const REALM_BYTES_MAX: usize = 256;

/// As a listener has it, or as routes say of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Jwt {
    /// The listener's.
    pub(crate) authentication: Option<Arc<Authentication>>,
    pub(crate) asks: Asks,
}

/// For which tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    ByRules,
    Nothing,
    /// A requirement of the listener's by its name.
    Named(Box<str>),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Authentication {
    pub(crate) providers: Box<[Provider]>,
    /// The first that matches counts; it may require nothing.
    pub(crate) rules: Box<[(RouteMatcher, Option<Requirement>)]>,
    pub(crate) named: BTreeMap<Box<str>, Option<Requirement>>,
    /// Browsers send no tokens when they ask whether they may.
    pub(crate) lets_preflights_pass: bool,
    /// Whether answers say nothing of what is wrong.
    pub(crate) says_nothing: bool,
}

/// Who issues tokens, and what they must be like.
#[derive(Debug, PartialEq)]
pub(crate) struct Provider {
    pub(crate) issuer: Option<Box<str>>,
    /// One of them is meant; any when empty.
    pub(crate) audiences: Audiences,
    pub(crate) subjects: Option<StringMatcher>,
    pub(crate) expiration: Expiration,
    /// By which clocks may differ.
    pub(crate) skew_seconds: u64,
    /// Where tokens are.
    pub(crate) places: Box<[Place]>,
    /// Whether the host is to see the token.
    pub(crate) forwards: bool,
    pub(crate) payload_header: Option<PayloadHeader>,
    pub(crate) claim_headers: Box<[ClaimHeader]>,
    /// What the filters behind this one know its claims by.
    pub(crate) metadata: Option<Arc<str>>,
    /// Claims that are lists of words with spaces in between.
    pub(crate) worded: Arc<[Box<str>]>,
    pub(crate) keys: Keys,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Expiration {
    Optional,
    Required,
    /// Not later than so long from now.
    Within(Duration),
}

/// Without the scheme and the slash that URLs have and names have not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Audiences(BTreeSet<Box<str>>);

#[derive(Debug, PartialEq)]
pub(crate) struct PayloadHeader {
    pub(crate) name: HeaderName,
    pub(crate) is_padded: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) struct ClaimHeader {
    pub(crate) name: HeaderName,
    /// From the outermost to the one that is meant.
    pub(crate) claim: Box<[Box<str>]>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Keys {
    Local(Arc<KeySet>),
    Remote(RemoteKeys),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Requirement {
    Provider {
        /// Its place among the providers.
        provider: usize,
        /// In place of its own.
        audiences: Option<Audiences>,
    },
    All(Box<[Self]>),
    OneOf(Box<[Self]>),
    /// No token, or good ones of these providers.
    Missing(Box<[usize]>),
    /// Whatever there is; what good ones of these providers say is known.
    Whatever(Box<[usize]>),
}

/// What a text says.
enum Read<'t> {
    /// Somebody has signed it.
    Known(Proven),
    New(Unproven<'t>),
}

/// A token that is good.
struct Accepted<'a> {
    provider: &'a Provider,
    place: &'a Place,
    token: Rc<Token>,
}

/// A request, with what was found in it until now.
struct Asked<'a, 'r, R> {
    providers: &'a [Provider],
    subject: &'r Subject<'r, R>,
    /// Seconds since 1970.
    now: u64,
    accepted: Vec<Accepted<'a>>,
}

impl Jwt {
    /// As `base`, which is the listener's, has it.
    pub(super) fn within(self, base: &Self) -> Self {
        Self {
            authentication: base.authentication.clone(),
            ..self
        }
    }

    pub(super) fn remote_keys(&self) -> impl Iterator<Item = &RemoteKeys> {
        let providers = self.authentication.iter().flat_map(|all| &all.providers);
        providers.filter_map(|provider| match &provider.keys {
            Keys::Remote(keys) => Some(keys),
            Keys::Local(_) => None,
        })
    }

    /// Whether it does nothing to any request.
    pub(super) fn is_idle(&self) -> bool {
        let asks = |all: &Authentication| match &self.asks {
            Asks::ByRules => !all.rules.is_empty(),
            Asks::Nothing => false,
            Asks::Named(_) => true,
        };
        let is_busy = |all: &Arc<Authentication>| asks(all) || all.own_headers().next().is_some();
        !self.authentication.as_ref().is_some_and(is_busy)
    }

    pub(super) fn judge(
        &self,
        subject: &Subject<'_, impl RequestView>,
        now: u64,
        facts: &mut Facts,
        verdict: &mut Verdict,
    ) {
        let Some(all) = &self.authentication else {
            return;
        };
        // Whoever else says them lies, also where nobody is asked for a token, and behind a body.
        verdict.request.edits.remove.extend(all.own_headers().cloned());
        subject.request.names(&mut |name| {
            let is_own = |own: &HeaderName| is_read_as(name, own.as_str().as_bytes());
            if all.own_headers().any(is_own) {
                verdict.request.edits.remove.extend(HeaderName::from_bytes(name));
            }
        });
        if all.lets_preflights_pass && is_preflight(&subject.request) {
            return;
        }
        let required = match &self.asks {
            Asks::Nothing => None,
            Asks::ByRules => {
                let mut rules = all.rules.iter();
                let rule = rules.find(|(matcher, _)| matcher.matches(subject));
                rule.and_then(|(_, required)| required.as_ref())
            }
            Asks::Named(name) => match all.named.get(name) {
                Some(required) => required.as_ref(),
                None => {
                    verdict.answer = Some(all.answer(StatusCode::FORBIDDEN, all.no_requirement(name)));
                    return;
                }
            },
        };
        let Some(required) = required else { return };
        let mut asked = Asked {
            providers: &all.providers,
            subject,
            now,
            accepted: Vec::new(),
        };
        match asked.meets(required) {
            Ok(()) => {
                for accepted in asked.accepted {
                    accepted.tell(verdict);
                    facts.extend(accepted.provider, accepted.token);
                }
            }
            Err(flaw) => {
                let status = match flaw {
                    Flaw::Audience => StatusCode::FORBIDDEN,
                    _ => StatusCode::UNAUTHORIZED,
                };
                verdict.answer = Some(all.answer(status, flaw.text().into()));
                if !all.says_nothing {
                    let line = (WWW_AUTHENTICATE, challenge(subject, flaw));
                    verdict.response.set.push(line);
                }
            }
        }
    }
}

impl Authentication {
    /// Those that only tokens fill.
    fn own_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.providers.iter().flat_map(|provider| {
            let claims = provider.claim_headers.iter().map(|header| &header.name);
            claims.chain(provider.payload_header.iter().map(|header| &header.name))
        })
    }

    fn answer(&self, status: StatusCode, text: Cow<'static, str>) -> Answer {
        let body = match text {
            _ if self.says_nothing => Bytes::new(),
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => text.into(),
        };
        Answer {
            status,
            code: None,
            flag: Flag::None,
            body,
        }
    }

    fn no_requirement(&self, name: &str) -> Cow<'static, str> {
        let known: Vec<&str> = self.named.keys().map(|name| &**name).collect();
        let known = known.join(", ");
        Cow::Owned(format!(
            "Failed JWT authentication: Wrong requirement_name: {name}. It should be one of [{known}]"
        ))
    }
}

impl<'a, R: RequestView> Asked<'a, '_, R> {
    /// What was accepted for what is not met in the end is accepted no more.
    fn meets(&mut self, required: &Requirement) -> Result<(), Flaw> {
        let before = self.accepted.len();
        let met = match required {
            Requirement::Provider { provider, audiences } => {
                let verified = self.verify(&[*provider], audiences.as_ref());
                verified.and_then(|found| if found { Ok(()) } else { Err(Flaw::Missing) })
            }
            Requirement::All(all) => all.iter().try_for_each(|one| self.meets(one)),
            Requirement::OneOf(some) => self.meets_one(some),
            Requirement::Missing(providers) => self.verify(providers, None).map(|_| ()),
            Requirement::Whatever(providers) => {
                // What was good until something was not, stays.
                let _ = self.verify(providers, None);
                Ok(())
            }
        };
        if met.is_err() {
            self.accepted.truncate(before);
        }
        met
    }

    /// Of all that is wrong it is told what says most: that a token is there, and is not good.
    fn meets_one(&mut self, some: &[Requirement]) -> Result<(), Flaw> {
        let mut told = Flaw::Missing;
        for one in some {
            match self.meets(one) {
                Ok(()) => return Ok(()),
                Err(Flaw::Missing) => {}
                Err(Flaw::Issuer) if told != Flaw::Missing => {}
                Err(flaw) => told = flaw,
            }
        }
        Err(told)
    }

    /// Whether there are tokens, all of which are good.
    fn verify(&mut self, providers: &[usize], audiences: Option<&Audiences>) -> Result<bool, Flaw> {
        let mut places: Vec<&'a Place> = Vec::new();
        for place in providers.iter().flat_map(|at| &self.providers[*at].places) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let subject = self.subject;
        let mut found = false;
        for place in places.into_iter().rev() {
            if self.is_taken(place) {
                continue;
            }
            if let Some(text) = place.token(subject) {
                found = true;
                let accepted = self.accept(place, &text?, providers, audiences)?;
                self.accepted.push(accepted);
            }
        }
        Ok(found)
    }

    /// Whether who looks there finds nothing any more, as in Envoy: a token that does not go on was taken out.
    fn is_taken(&self, place: &Place) -> bool {
        self.accepted.iter().any(|accepted| {
            let is_same = match (accepted.place, place) {
                (Place::Header { name, .. }, Place::Header { name: other, .. }) => name == other,
                (Place::Cookie(_), _) => false,
                (one, other) => one == other,
            };
            is_same && !accepted.provider.forwards
        })
    }

    fn accept(
        &self,
        place: &'a Place,
        text: &str,
        providers: &[usize],
        audiences: Option<&Audiences>,
    ) -> Result<Accepted<'a>, Flaw> {
        let read = Read::of(text)?;
        let token = read.token();
        let providers = providers.iter().map(|at| &self.providers[*at]);
        let providers = providers.filter(|provider| provider.places.contains(place));
        let mut issuers = providers.clone();
        let mut nameless = providers.filter(|provider| provider.issuer.is_none());
        let provider = issuers
            .find(|provider| provider.issuer.as_ref() == Some(&token.issuer))
            .or_else(|| nameless.next())
            .ok_or(Flaw::Issuer)?;
        provider.takes(token, audiences, self.now)?;
        let token = provider.prove(text, read)?;
        Ok(Accepted {
            provider,
            place,
            token,
        })
    }
}

impl Provider {
    /// Whether a token is one that is good here and now, if it is true.
    fn takes(&self, token: &Token, audiences: Option<&Audiences>, now: u64) -> Result<(), Flaw> {
        if now.saturating_add(self.skew_seconds) < token.not_before {
            return Err(Flaw::NotYet);
        }
        let expires = token.expires;
        if expires.is_some_and(|expires| now > expires.saturating_add(self.skew_seconds)) {
            return Err(Flaw::Expired);
        }
        // As in Envoy, none are no others.
        let audiences = audiences.filter(|others| !others.0.is_empty());
        if !audiences.unwrap_or(&self.audiences).take(token) {
            return Err(Flaw::Audience);
        }
        let is_of_subject = |subjects: &StringMatcher| subjects.matches(token.subject.as_bytes());
        let ends = match self.expiration {
            Expiration::Optional => true,
            Expiration::Required => expires.is_some(),
            Expiration::Within(time) => {
                expires.is_some_and(|expires| expires.saturating_sub(now) <= time.as_secs())
            }
        };
        if !self.subjects.as_ref().is_none_or(is_of_subject) || !ends {
            return Err(Flaw::Unverified);
        }
        Ok(())
    }

    fn prove(&self, text: &str, read: Read<'_>) -> Result<Rc<Token>, Flaw> {
        let proven = self.keys.with(|keys| match read {
            Read::Known(known) if Arc::ptr_eq(&known.keys, keys) => Ok(known.token),
            // By another issuer's keys, or those of before.
            Read::Known(_) => verified(text, Unproven::read(text)?, keys),
            Read::New(unproven) => verified(text, unproven, keys),
        });
        let proven = proven.unwrap_or(Err(Flaw::NoKeys));
        if let (Err(Flaw::NoKey), Keys::Remote(keys)) = (&proven, &self.keys) {
            // The issuer may have a new one.
            keys.want();
        }
        proven
    }
}

fn verified(text: &str, unproven: Unproven<'_>, keys: &Arc<KeySet>) -> Result<Rc<Token>, Flaw> {
    keys.verify(unproven.signed())
        .map_err(|unverified| match unverified {
            Unverified::NoKey => Flaw::NoKey,
            Unverified::Forged => Flaw::Unverified,
        })?;
    let token = Rc::new(unproven.token);
    cache::put(
        text,
        Proven {
            keys: Arc::clone(keys),
            token: Rc::clone(&token),
        },
    );
    Ok(token)
}

impl<'t> Read<'t> {
    fn of(text: &'t str) -> Result<Self, Flaw> {
        match cache::get(text) {
            Some(known) => Ok(Self::Known(known)),
            None => Unproven::read(text).map(Self::New),
        }
    }

    fn token(&self) -> &Token {
        match self {
            Self::Known(known) => &known.token,
            Self::New(unproven) => &unproven.token,
        }
    }
}

impl Keys {
    /// None where there are none yet, or no more.
    fn with<T>(&self, ask: impl FnOnce(&Arc<KeySet>) -> T) -> Option<T> {
        match self {
            Self::Local(keys) => Some(ask(keys)),
            Self::Remote(remote) => {
                let keys = remote.keys()?;
                keys.as_ref().map(ask)
            }
        }
    }
}

impl Audiences {
    pub(crate) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| plain(name).into()).collect())
    }

    fn take(&self, token: &Token) -> bool {
        let mut audiences = token.audiences.iter();
        self.0.is_empty() || audiences.any(|audience| self.0.contains(plain(audience)))
    }
}

/// As Envoy compares them.
fn plain(audience: &str) -> &str {
    let name = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"));
    let name = name.unwrap_or(audience);
    name.strip_suffix('/').unwrap_or(name)
}

impl Accepted<'_> {
    /// What goes on of it.
    fn tell(&self, verdict: &mut Verdict) {
        let Self {
            provider,
            place,
            token,
        } = self;
        let edits = &mut verdict.request.edits;
        if let Some(PayloadHeader { name, is_padded }) = &provider.payload_header {
            let payload = if *is_padded {
                let padding = (4 - token.payload.len() % 4) % 4;
                Cow::Owned(format!("{}{}", token.payload, "=".repeat(padding)))
            } else {
                Cow::Borrowed(&*token.payload)
            };
            edits.set.extend(
                HeaderValue::from_str(&payload)
                    .ok()
                    .map(|value| (name.clone(), value)),
            );
        }
        for ClaimHeader { name, claim } in &provider.claim_headers {
            let value = at(&token.claims, claim).and_then(line);
            edits.set.extend(value.map(|value| (name.clone(), value)));
        }
        if provider.forwards {
            return;
        }
        match place {
            Place::Header { name, .. } => edits.remove.push(name.clone()),
            Place::Parameter(name) => verdict.request.parameters.push(name.clone()),
            // As in Envoy.
            Place::Cookie(_) => {}
        }
    }
}

/// A claim as Envoy writes it; nothing where it is empty, or cannot stand in a header.
fn line(claim: &Json) -> Option<HeaderValue> {
    let text = match claim {
        Json::Null => return None,
        Json::Bool(value) => Cow::Owned(value.to_string()),
        Json::Number(value) if value.fract() == 0.0 => Cow::Owned(format!("{value:.0}")),
        Json::Number(value) => Cow::Owned(format!("{value:.6}")),
        Json::Text(text) => Cow::Borrowed(&**text),
        Json::List(_) | Json::Object(_) => Cow::Owned(STANDARD.encode(serde_json::to_vec(claim).ok()?)),
    };
    if text.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

fn is_preflight(request: &impl RequestView) -> bool {
    let has = |name| request.lines(name).any(|line: &[u8]| !line.is_empty());
    *request.method() == Method::OPTIONS && has(&ORIGIN) && has(&ACCESS_CONTROL_REQUEST_METHOD)
}

/// Which tokens are wanted (RFC 6750, section 3).
fn challenge(subject: &Subject<'_, impl RequestView>, flaw: Flaw) -> HeaderValue {
    let target = subject.target();
    let end = target.floor_char_boundary(REALM_BYTES_MAX);
    let scheme = subject.client.channel.scheme;
    let authority = subject.authority;
    let target = target[..end].replace('"', "%22");
    let error = match flaw {
        Flaw::Missing => "",
        _ => ", error=\"invalid_token\"",
    };
    let line = format!("Bearer realm=\"{scheme}://{authority}{target}\"{error}");
    HeaderValue::try_from(line).unwrap_or(HeaderValue::from_static("Bearer"))
}

#[cfg(test)]
mod tests;
