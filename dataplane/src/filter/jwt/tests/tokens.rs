//! Which tokens are good, who can have issued them, and where they are looked for.

use super::*;

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
