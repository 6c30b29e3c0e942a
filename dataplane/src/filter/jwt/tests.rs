#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::Request;
use http::request::Parts;
use serde_json::{Value, json};

use super::*;
use crate::jwks::samples::{Issuer, keys};
use crate::matcher::{Case, PathMatcher, Text};

const NOW: u64 = 1_000_000;

struct Issuers {
    one: Issuer,
    two: Issuer,
    all: Arc<Authentication>,
}

/// Two issuers, `a` and `b`, the latter of which lets its tokens go on, and another one, `c`, that says nothing of who issues.
static ISSUERS: LazyLock<Issuers> = LazyLock::new(|| {
    let (one, two) = (Issuer::p256(), Issuer::ed25519());
    let a = Provider {
        audiences: Audiences::new(&["web".to_owned(), "https://api/".to_owned()]),
        payload_header: Some(PayloadHeader {
            name: HeaderName::from_static("x-payload"),
            is_padded: false,
        }),
        claim_headers: ["sub", "deep.er", "number", "list"]
            .map(|claim| ClaimHeader {
                name: format!("x-{}", claim.replace('.', "-")).parse().unwrap(),
                claim: claim.split('.').map(Box::from).collect(),
            })
            .into(),
        metadata: Some("a".into()),
        ..provider(Some("https://a"), &one)
    };
    let b = Provider {
        forwards: true,
        ..provider(Some("https://b"), &two)
    };
    let c = Provider {
        expiration: Expiration::Within(Duration::from_secs(100)),
        subjects: Some(StringMatcher::exact("me")),
        places: [
            Place::Header {
                name: HeaderName::from_static("x-token"),
                prefix: Box::default(),
            },
            Place::Cookie("t".into()),
        ]
        .into(),
        ..provider(None, &two)
    };
    let all = Authentication {
        providers: [a, b, c].into(),
        rules: Box::default(),
        named: BTreeMap::new(),
        lets_preflights_pass: false,
        says_nothing: false,
    };
    Issuers {
        one,
        two,
        all: Arc::new(all),
    }
});

fn provider(issuer: Option<&str>, keys_of: &Issuer) -> Provider {
    let set = keys(&[keys_of.key(&json!({"kid": "1"}))]);
    Provider {
        issuer: issuer.map(Box::from),
        audiences: Audiences::default(),
        subjects: None,
        expiration: Expiration::Optional,
        skew_seconds: 60,
        places: [
            Place::Header {
                name: http::header::AUTHORIZATION,
                prefix: "Bearer ".into(),
            },
            Place::Parameter("access_token".into()),
        ]
        .into(),
        forwards: false,
        payload_header: None,
        claim_headers: Box::default(),
        metadata: None,
        worded: Arc::default(),
        keys: Keys::Local(Arc::new(KeySet::parse(set.as_bytes()).unwrap())),
    }
}

fn only(provider: usize) -> Requirement {
    Requirement::Provider {
        provider,
        audiences: None,
    }
}

fn request(target: &str, lines: &[(&str, &str)]) -> Parts {
    let lines = lines.iter();
    let request = lines.fold(Request::get(target), |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(()).unwrap().into_parts().0
}

fn subject(request: &Parts) -> Subject<'_, &Parts> {
    Subject {
        authority: "h",
        path: request.uri.path(),
        client: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 9].into(),
        request,
    }
}

/// The providers' places for what is accepted, or what is wrong.
fn met(required: &Requirement, target: &str, lines: &[(&str, &str)]) -> Result<Vec<usize>, &'static str> {
    let request = request(target, lines);
    let providers = &*ISSUERS.all.providers;
    let mut asked = Asked {
        providers,
        subject: &subject(&request),
        now: NOW,
        accepted: Vec::new(),
    };
    let met = asked.meets(required).map_err(Flaw::text);
    let place = |accepted: &Accepted<'_>| {
        let mut places = providers.iter();
        places
            .position(|one| std::ptr::eq(one, accepted.provider))
            .unwrap()
    };
    met.map(|()| asked.accepted.iter().map(place).collect())
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Of `a` and `b`, with what `more` says otherwise.
fn of_a(more: &Value) -> String {
    let mut claims = json!({"iss": "https://a", "aud": "web", "sub": "me", "exp": NOW + 10});
    let fields = more.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(fields);
    ISSUERS.one.token(&json!({"alg": "ES256", "kid": "1"}), &claims)
}

fn of_b(more: &Value) -> String {
    let mut claims = json!({"iss": "https://b"});
    let fields = more.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(fields);
    ISSUERS.two.token(&json!({"alg": "EdDSA"}), &claims)
}

const MISSING: &str = "Jwt is missing";
const EXPIRED: &str = "Jwt is expired";
const NOT_YET: &str = "Jwt not yet valid";
const AUDIENCE: &str = "Audiences in Jwt are not allowed";
const ISSUER: &str = "Jwt issuer is not configured";
const FORGED: &str = "Jwt verification fails";
const NO_KEY: &str = "Jwks doesn't have key to match kid or alg from Jwt";
const FORM: &str = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";

/// As Envoy answers the same requests.
#[test]
fn requirements_are_joined() {
    use Requirement::{All, Missing, OneOf, Whatever};
    let (a, b) = (of_a(&json!({})), of_b(&json!({})));
    let old = of_a(&json!({"exp": 1}));
    let either = || OneOf([only(0), only(1)].into());
    let other = || OneOf([only(1), only(0)].into());
    let both = || All([only(0), only(1)].into());
    let both_turned = || All([only(1), only(0)].into());
    let missing = || OneOf([only(0), Missing([0].into())].into());
    let whatever = || OneOf([only(0), Whatever([0].into())].into());
    let all_missing = || Missing([0, 1].into());
    let all_whatever = || Whatever([0, 1].into());
    for (required, header, parameter, expected) in [
        (either(), "", "", Err(MISSING)),
        (either(), &*a, "", Ok(vec![0])),
        (either(), &*b, "", Ok(vec![1])),
        (either(), &*old, "", Err(EXPIRED)),
        (either(), "junk", "", Err(FORM)),
        (either(), &*a, &*b, Err(ISSUER)),
        (either(), &*old, &*a, Err(EXPIRED)),
        (other(), &*a, "", Ok(vec![0])),
        (other(), &*old, "", Err(EXPIRED)),
        (both(), "", "", Err(MISSING)),
        // What the first has taken out is not there for the second.
        (both(), &*a, "", Err(MISSING)),
        (both(), &*b, "", Err(ISSUER)),
        (both_turned(), &*b, "", Err(ISSUER)),
        (missing(), "", "", Ok(vec![])),
        (missing(), &*a, "", Ok(vec![0])),
        (missing(), &*b, "", Err(ISSUER)),
        (missing(), &*old, "", Err(EXPIRED)),
        (missing(), "junk", "", Err(FORM)),
        (whatever(), "", "", Ok(vec![])),
        (whatever(), &*a, "", Ok(vec![0])),
        (whatever(), &*old, "", Ok(vec![])),
        (whatever(), &*old, &*a, Ok(vec![0])),
        (whatever(), &*a, &*b, Ok(vec![])),
        (whatever(), "junk", "", Ok(vec![])),
        (all_missing(), "", "", Ok(vec![])),
        (all_missing(), &*a, &*b, Ok(vec![1, 0])),
        (all_missing(), &*old, &*a, Err(EXPIRED)),
        (all_missing(), "junk", "", Err(FORM)),
        (all_whatever(), &*a, &*b, Ok(vec![1, 0])),
        (all_whatever(), &*old, &*a, Ok(vec![0])),
        (all_whatever(), "junk", "", Ok(vec![])),
    ] {
        let line = bearer(header);
        let lines = [("authorization", &*line)];
        let target = format!("/?access_token={parameter}");
        let target = if parameter.is_empty() { "/" } else { &target };
        let lines = if header.is_empty() { &[][..] } else { &lines };
        let case = format!("{required:?} {header:.20} {parameter:.20}");
        assert_eq!(met(&required, target, lines), expected, "{case}");
    }
}

fn judged(jwt: &Jwt, target: &str, lines: &[(&str, &str)]) -> Verdict {
    let request = request(target, lines);
    let mut verdict = Verdict::default();
    jwt.judge(&subject(&request), NOW, &mut Facts::default(), &mut verdict);
    verdict
}

/// What would go on of a request.
fn gone_on(verdict: &Verdict, target: &str, lines: &[(&str, &str)]) -> String {
    let mut headers = request(target, lines).headers;
    verdict.request.edits.apply(&mut headers);
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    let target = verdict.request.target(target.parse().unwrap());
    format!("{target} {}", lines.join(", "))
}

/// With that requirement, and whatever else it says.
fn requiring(required: Option<Requirement>, change: impl FnOnce(&mut Authentication)) -> Jwt {
    let path = |path: &str| RouteMatcher {
        path: PathMatcher::Prefix(Text::new(path, Case::Matters)),
        headers: vec![],
        query: vec![],
        cookies: vec![],
    };
    let (issuer, headers) = (&ISSUERS.one, &ISSUERS.all.providers[0]);
    let only = Provider {
        claim_headers: headers
            .claim_headers
            .iter()
            .map(|header| ClaimHeader {
                name: header.name.clone(),
                claim: header.claim.clone(),
            })
            .collect(),
        payload_header: Some(PayloadHeader {
            name: HeaderName::from_static("x-payload"),
            is_padded: true,
        }),
        ..provider(Some("https://a"), issuer)
    };
    let mut authentication = Authentication {
        providers: [only].into(),
        rules: [(path("/open"), None), (path("/"), required)].into(),
        named: BTreeMap::new(),
        lets_preflights_pass: false,
        says_nothing: false,
    };
    change(&mut authentication);
    Jwt {
        authentication: Some(Arc::new(authentication)),
        asks: Asks::ByRules,
    }
}

#[test]
fn keys_that_have_changed_know_nothing_of_what_was_signed_before() {
    let (first, second) = (Issuer::p256(), Issuer::p256());
    let set = |issuer: &Issuer, id: &str| {
        let set = keys(&[issuer.key(&json!({"kid": id}))]);
        Some(Arc::new(KeySet::parse(set.as_bytes()).unwrap()))
    };
    let remote = RemoteKeys::new(crate::jwks::Remote {
        authority: "issuer".parse().unwrap(),
        path: "/keys".parse().unwrap(),
        cluster: "issuer".into(),
        timeout: Duration::from_secs(1),
        cached: Duration::from_secs(1),
        again: Duration::from_secs(1),
        retries_max: 0,
        back_off: crate::retry::BackOff::DEFAULT,
    });
    let jwt = requiring(Some(only(0)), |all| all.providers[0].keys = Keys::Remote(remote));
    let Keys::Remote(remote) = &jwt.authentication.as_ref().unwrap().providers[0].keys else {
        unreachable!()
    };
    let claims = json!({"iss": "https://a"});
    let token = |issuer: &Issuer, id: &str| {
        let header = json!({"alg": "ES256", "kid": id});
        bearer(&issuer.token(&header, &claims))
    };
    let (old, new) = (token(&first, "1"), token(&second, "2"));
    let told = |line: &str| {
        let answer = judged(&jwt, "/", &[("authorization", line)]).answer?;
        Some(String::from_utf8(answer.body.to_vec()).unwrap())
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(told(&old), text("Jwks remote fetch is failed"));
    remote.come(set(&first, "1"));
    assert_eq!((told(&old), told(&old), told(&new)), (None, None, text(NO_KEY)));
    remote.come(set(&second, "2"));
    assert_eq!((told(&old), told(&new)), (text(NO_KEY), None));
    remote.come(None);
    assert_eq!(told(&new), text("Jwks remote fetch is failed"));
}

#[test]
fn what_follows_knows_the_claims() {
    use crate::filter::{ClaimMatcher, NumberMatcher, ValueMatcher};
    let mut provider = provider(Some("https://a"), &ISSUERS.one);
    provider.metadata = Some("me".into());
    provider.worded = ["scope".into()].into();
    let claims = json!({"iss": "https://a", "scope": "read write", "words": "read write", "groups": ["dev", 5],
        "deep": {"er": true}, "n": 5, "nothing": null});
    let token = ISSUERS.one.token(&json!({"alg": "ES256"}), &claims);
    let token = Rc::new(Unproven::read(&token).unwrap().token);
    let mut facts = Facts::default();
    facts.extend(&provider, token);
    let text = |text: &str| ValueMatcher::Text(StringMatcher::exact(text));
    let item = |matcher| ValueMatcher::Item(Box::new(matcher));
    let five = || ValueMatcher::Number(NumberMatcher::Exact(5.0));
    for (path, wanted, expected) in [
        ("me.iss", text("https://a"), true),
        ("me.iss", text("https://b"), false),
        ("me.groups", item(text("dev")), true),
        ("me.groups", item(text("ops")), false),
        ("me.groups", item(five()), true),
        ("me.groups", text("dev"), false),
        ("me.iss", item(text("https://a")), false),
        ("me.scope", item(text("write")), true),
        ("me.scope", item(text("writ")), false),
        ("me.scope", text("read write"), false),
        ("me.words", text("read write"), true),
        ("me.words", item(text("read")), false),
        ("me.deep.er", ValueMatcher::Bool(true), true),
        ("me.deep.er", ValueMatcher::Bool(false), false),
        ("me.deep", ValueMatcher::Present, true),
        ("me", ValueMatcher::Present, true),
        ("me.none", ValueMatcher::Present, false),
        ("me.none", text(""), false),
        ("you.iss", text("https://a"), false),
        ("me.n", five(), true),
        (
            "me.n",
            ValueMatcher::Number(NumberMatcher::Within(4.0..5.0)),
            false,
        ),
        ("me.nothing", ValueMatcher::Null, true),
        ("me.none", ValueMatcher::Null, false),
        ("me.n", ValueMatcher::OneOf([text("x"), five()].into()), true),
    ] {
        for inverted in [false, true] {
            let matcher = ClaimMatcher {
                path: path.split('.').map(Box::from).collect(),
                wanted: wanted.clone(),
                inverted,
            };
            assert_eq!(matcher.matches(&facts), expected != inverted, "{matcher:?}");
        }
    }
}

mod behind;
mod tokens;
mod told;
