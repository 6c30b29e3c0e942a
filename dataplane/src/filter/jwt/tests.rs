#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::Request;
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

fn request(target: &str, lines: &[(&str, &str)]) -> http::request::Parts {
    let lines = lines.iter();
    let request = lines.fold(Request::get(target), |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(()).unwrap().into_parts().0
}

/// The providers' places for what is accepted, or what is wrong.
fn met(required: &Requirement, target: &str, lines: &[(&str, &str)]) -> Result<Vec<usize>, &'static str> {
    let request = request(target, lines);
    let subject = Subject {
        authority: "h",
        path: request.uri.path(),
        client: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 9].into(),
        request: &request,
    };
    let providers = &*ISSUERS.all.providers;
    let mut asked = Asked {
        providers,
        subject: &subject,
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

#[test]
fn a_token_is_good_if_all_of_it_is() {
    for (more, expected) in [
        (json!({}), Ok(())),
        (json!({"exp": NOW - 60}), Ok(())),
        (json!({"exp": NOW - 61}), Err(EXPIRED)),
        (json!({"exp": 0}), Err(EXPIRED)),
        (json!({"exp": u64::MAX >> 1}), Ok(())),
        (json!({"nbf": NOW + 60}), Ok(())),
        (json!({"nbf": NOW + 61}), Err(NOT_YET)),
        (json!({"aud": "other"}), Err(AUDIENCE)),
        (json!({"aud": []}), Err(AUDIENCE)),
        (json!({"aud": ["other", "https://web/"]}), Ok(())),
        (json!({"aud": "api"}), Ok(())),
        (json!({"aud": "http://api"}), Ok(())),
        (json!({"iss": "https://z"}), Err(ISSUER)),
        (json!({"iss": "https://b"}), Err(ISSUER)),
        (json!({"iss": "https://A"}), Err(ISSUER)),
    ] {
        let line = bearer(&of_a(&more));
        // A second time, when it is known who has signed it.
        for _ in 0..2 {
            let found = met(&only(0), "/", &[("authorization", &line)]);
            assert_eq!(found, expected.map(|()| vec![0]), "{more}");
        }
    }
}

#[test]
fn who_has_not_signed_has_not_issued() {
    let claims = json!({"iss": "https://a", "aud": "web"});
    let token = |issuer: &Issuer, header: Value| issuer.token(&header, &claims);
    let (one, other) = (&ISSUERS.one, Issuer::p256());
    let good = token(one, json!({"alg": "ES256"}));
    let changed = {
        let mut parts = good.split('.');
        let (header, signature) = (parts.next().unwrap(), parts.nth(1).unwrap());
        let claims = json!({"iss": "https://a", "aud": "web", "sub": "root"});
        let payload = crate::jwks::samples::encoded(claims.to_string());
        format!("{header}.{payload}.{signature}")
    };
    for (token, expected) in [
        (good.clone(), Ok(vec![0])),
        (changed, Err(FORGED)),
        (token(&other, json!({"alg": "ES256"})), Err(FORGED)),
        (token(&other, json!({"alg": "ES256", "kid": "1"})), Err(FORGED)),
        (token(one, json!({"alg": "ES256", "kid": "2"})), Err(NO_KEY)),
        (token(one, json!({"alg": "ES384"})), Err(NO_KEY)),
        (token(&ISSUERS.two, json!({"alg": "EdDSA"})), Err(NO_KEY)),
        (
            token(one, json!({"alg": "none"})),
            Err("Jwt header [alg] is not supported"),
        ),
        (
            token(one, json!({"alg": "HS256"})),
            Err("Jwt header [alg] is not supported"),
        ),
        (
            format!("{good}x"),
            Err("Jwt signature is an invalid Base64url encoded"),
        ),
        ("x".to_owned(), Err(FORM)),
    ] {
        let found = met(&only(0), "/", &[("authorization", &bearer(&token))]);
        assert_eq!(found, expected, "{token}");
    }
    // What one issuer's keys are known to have signed, another one's have not.
    let claims = json!({"iss": "https://b"});
    let as_b = ISSUERS.one.token(&json!({"alg": "ES256"}), &claims);
    let as_b = bearer(&as_b);
    assert_eq!(met(&only(1), "/", &[("authorization", &as_b)]), Err(NO_KEY));
}

#[test]
fn tokens_are_where_they_are_looked_for() {
    let a = of_a(&json!({}));
    let c = of_b(&json!({"sub": "me", "exp": NOW + 100}));
    let two = format!("{}, {}", bearer(&a), bearer(&a));
    type Case<'a> = (usize, &'a str, &'a [(&'a str, &'a str)], Result<(), &'a str>);
    let cases: &[Case<'_>] = &[
        (0, "/", &[], Err(MISSING)),
        (0, "/", &[("authorization", &bearer(&a))], Ok(())),
        (0, "/", &[("authorization", &format!("X, Bearer   {a}"))], Ok(())),
        (0, "/", &[("authorization", &format!("bearer {a}"))], Err(MISSING)),
        (0, "/", &[("authorization", &a)], Err(MISSING)),
        (0, "/", &[("authorization", "Basic eA==")], Err(MISSING)),
        (0, "/", &[("authorization", "Bearer ")], Err(FORM)),
        (0, "/", &[("authorization", &two)], Err(FORM)),
        (
            0,
            "/",
            &[("authorization", &bearer(&a)), ("authorization", "x")],
            Err(FORM),
        ),
        (
            0,
            "/",
            &[("authorization", "bearer x"), ("authorization", &bearer(&a))],
            Err(FORM),
        ),
        (
            0,
            "/",
            &[("authorization", &format!("bearer x, {}", bearer(&a)))],
            Err(FORM),
        ),
        (
            0,
            "/",
            &[("authorization", &bearer(&a)), ("authorization", &bearer(&a))],
            Err(FORM),
        ),
        (0, &format!("/?x=1&access_token={a}&y"), &[], Ok(())),
        (0, &format!("/?Access_token={a}"), &[], Err(MISSING)),
        (0, &format!("/?access%5Ftoken={a}"), &[], Ok(())),
        (0, &format!("/?access%5ftoken=x&access_token={a}"), &[], Err(FORM)),
        (0, &format!("/?access_token={a}&access_token={a}"), &[], Err(FORM)),
        (
            0,
            "/?access_token=x",
            &[("authorization", &bearer(&a))],
            Err(FORM),
        ),
        (0, "/", &[("x-token", &a)], Err(MISSING)),
        (2, "/", &[("x-token", &c)], Ok(())),
        // A host may take the other one for it.
        (2, "/", &[("x-token", &c), ("x_token", "x")], Err(FORM)),
        (2, "/", &[("X_Token", &c)], Err(FORM)),
        (
            2,
            "/",
            &[("x-token", &bearer(&c))],
            Err("Jwt header is an invalid Base64url encoded"),
        ),
        (2, "/", &[("cookie", &format!("a=b; t={c}"))], Ok(())),
        (2, "/", &[("cookie", &format!("t={c}; t=x"))], Err(FORM)),
        (
            2,
            "/",
            &[("cookie", &format!("t={c}")), ("cookie", "t=x")],
            Err(FORM),
        ),
        (2, "/", &[("authorization", &bearer(&c))], Err(MISSING)),
    ];
    for (provider, target, lines, expected) in cases {
        let found = met(&only(*provider), target, lines);
        assert_eq!(
            found,
            expected.map(|()| vec![*provider]),
            "{provider} {target} {lines:?}"
        );
    }
}

#[test]
fn a_provider_may_ask_for_more() {
    for (more, expected) in [
        (json!({"sub": "me", "exp": NOW + 100}), Ok(vec![2])),
        (json!({"sub": "me", "exp": NOW + 101}), Err(FORGED)),
        (json!({"sub": "me"}), Err(FORGED)),
        (json!({"exp": NOW + 100}), Err(FORGED)),
        (json!({"sub": "me", "exp": NOW - 100}), Err(EXPIRED)),
    ] {
        let token = of_b(&more);
        assert_eq!(met(&only(2), "/", &[("x-token", &token)]), expected, "{more}");
    }
    let audiences = |names: &[&str]| Requirement::Provider {
        provider: 0,
        audiences: Some(Audiences::new(
            &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
        )),
    };
    let token = bearer(&of_a(&json!({"aud": "other"})));
    let lines = [("authorization", &*token)];
    assert_eq!(met(&audiences(&["other"]), "/", &lines), Ok(vec![0]));
    assert_eq!(met(&audiences(&["web"]), "/", &lines), Err(AUDIENCE));
    assert_eq!(
        met(&audiences(&[]), "/", &lines),
        Err(AUDIENCE),
        "none of its own"
    );
    let token = bearer(&of_a(&json!({})));
    assert_eq!(
        met(&audiences(&[]), "/", &[("authorization", &token)]),
        Ok(vec![0])
    );
}

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
    let subject = Subject {
        authority: "h",
        path: request.uri.path(),
        client: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 9].into(),
        request: &request,
    };
    let mut verdict = Verdict::default();
    jwt.judge(&subject, NOW, &mut Facts::default(), &mut verdict);
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
fn what_a_token_says_goes_on_and_nobody_else_says_it() {
    let jwt = requiring(Some(only(0)), |_| {});
    let claims = json!({"number": 5, "list": ["a", 1], "deep": {"er": "d"}});
    let token = of_a(&claims);
    let payload = token.split('.').nth(1).unwrap();
    let padded = format!("{payload}{}", "=".repeat((4 - payload.len() % 4) % 4));
    let forged = [
        ("x-sub", "root"),
        ("x-deep-er", "x"),
        ("x-payload", "x"),
        // As hosts read them that write `_` for `-`.
        ("x_sub", "root"),
        ("x_deep-er", "x"),
        ("x-y", "z"),
    ];
    let line = bearer(&token);
    let told = format!("x-deep-er: d, x-list: WyJhIiwxXQ==, x-number: 5, x-payload: {padded}, x-sub: me");
    let with = |more: &[(&'static str, String)]| {
        let mut lines: Vec<(&str, String)> = forged.map(|(name, value)| (name, value.to_owned())).into();
        lines.extend(more.iter().cloned());
        lines
    };
    for (target, more, expected) in [
        (
            "/p?q=1".to_owned(),
            vec![("authorization", line.clone())],
            format!("/p?q=1 {told}, x-y: z"),
        ),
        (
            format!("/p?access_token={token}&q=1"),
            vec![],
            format!("/p?q=1 {told}, x-y: z"),
        ),
        (
            format!("/p?q=1&%61ccess%5Ftoken={token}"),
            vec![],
            format!("/p?q=1 {told}, x-y: z"),
        ),
        (
            "/open".to_owned(),
            vec![("authorization", line.clone())],
            format!("/open authorization: {line}, x-y: z"),
        ),
        ("/open".to_owned(), vec![], "/open x-y: z".to_owned()),
    ] {
        let lines = with(&more);
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, &**value)).collect();
        let verdict = judged(&jwt, &target, &lines);
        assert_eq!(verdict.answer, None, "{target}");
        assert_eq!(gone_on(&verdict, &target, &lines), expected);
    }
    // A claim that is not there leaves no header, and one that cannot stand in one neither.
    for claims in [
        json!({"sub": ""}),
        json!({"sub": "a\nb"}),
        json!({"number": null}),
    ] {
        let line = bearer(&of_a(&claims));
        let lines = [("authorization", &*line), ("x-sub", "root"), ("x-number", "1")];
        let told = gone_on(&judged(&jwt, "/", &lines), "/", &lines);
        assert!(!told.contains("root") && !told.contains("x-number"), "{told}");
    }
}

#[test]
fn who_has_no_good_token_is_told_what_is_wrong() {
    let old = bearer(&of_a(&json!({"exp": 1})));
    let other = bearer(&of_a(&json!({"aud": "x"})));
    let wanted = Requirement::Provider {
        provider: 0,
        audiences: Some(Audiences::new(&["web".to_owned()])),
    };
    let jwt = requiring(Some(wanted.clone()), |_| {});
    let mute = requiring(Some(wanted), |all| all.says_nothing = true);
    let long = format!("/p?{}", "x".repeat(300));
    let realm = |target: &str| format!("Bearer realm=\"http://h{target}\"");
    let invalid = |target: &str| format!("{}, error=\"invalid_token\"", realm(target));
    for (target, lines, status, text, line) in [
        ("/p\"q", vec![], 401, MISSING, realm("/p%22q")),
        ("/p", vec![("authorization", &*old)], 401, EXPIRED, invalid("/p")),
        (
            "/p",
            vec![("authorization", &*other)],
            403,
            AUDIENCE,
            invalid("/p"),
        ),
        (&long, vec![], 401, MISSING, realm(&long[..256])),
    ] {
        let verdict = judged(&jwt, target, &lines);
        let answer = verdict.answer.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (status, text.as_bytes()),
            "{target}"
        );
        let said = [(WWW_AUTHENTICATE, HeaderValue::try_from(line).unwrap())];
        assert_eq!(verdict.response.set, said);
        let verdict = judged(&mute, target, &lines);
        let answer = verdict.answer.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (status, &b""[..]),
            "{target}"
        );
        assert_eq!(verdict.response.set, []);
    }
}

#[test]
fn routes_say_which_requirement_is_theirs() {
    let jwt = |asks| Jwt {
        asks,
        ..requiring(None, |all| {
            all.named = [("n".into(), Some(only(0))), ("z".into(), None)].into();
        })
    };
    for (asks, expected) in [
        (Asks::ByRules, None),
        (Asks::Nothing, None),
        (Asks::Named("z".into()), None),
        (Asks::Named("n".into()), Some((401, MISSING))),
        (
            Asks::Named("x".into()),
            Some((
                403,
                "Failed JWT authentication: Wrong requirement_name: x. It should be one of [n, z]",
            )),
        ),
    ] {
        let lines = [("x-sub", "root"), ("X_Sub", "root")];
        let verdict = judged(&jwt(asks.clone()), "/", &lines);
        let answer = verdict.answer.as_ref().map(|answer| {
            let text = std::str::from_utf8(&answer.body).unwrap();
            (answer.status.as_u16(), text)
        });
        assert_eq!(answer, expected, "{asks:?}");
        assert_eq!(gone_on(&verdict, "/", &lines), "/ ", "{asks:?}");
    }
}

#[test]
fn preflights_carry_no_tokens() {
    let ask = |jwt: &Jwt, method: &str, lines: &[(&str, &str)]| {
        let mut request = request("/", lines);
        request.method = method.parse().unwrap();
        let subject = Subject {
            authority: "h",
            path: "/",
            client: [10, 0, 0, 1].into(),
            direct: [10, 0, 0, 9].into(),
            request: &request,
        };
        let mut verdict = Verdict::default();
        jwt.judge(&subject, NOW, &mut Facts::default(), &mut verdict);
        verdict.answer.is_none()
    };
    let lets = requiring(Some(only(0)), |all| all.lets_preflights_pass = true);
    let asks = [("origin", "https://a"), ("access-control-request-method", "PUT")];
    assert!(ask(&lets, "OPTIONS", &asks));
    for (method, lines) in [
        ("PUT", &asks[..]),
        ("OPTIONS", &asks[..1]),
        ("OPTIONS", &asks[1..]),
    ] {
        assert!(!ask(&lets, method, lines), "{method} {lines:?}");
    }
    assert!(!ask(&requiring(Some(only(0)), |_| {}), "OPTIONS", &asks));
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
