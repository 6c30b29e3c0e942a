//! Who has a token, through real Envoy.

use http::Request;
use http_body_util::Full;
use serde_json::{Value, from_value, json};
use tombolo_tests::issuer::{Issuer, token};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn real_envoy_lets_through_who_shows_a_token_and_nobody_whose_keys_cannot_be_had() {
    let applications = Applications::default();
    let address = SocketAddr::from(([127, 0, 31, 11], free_port()));
    let application = applications.start("web", address).await.unwrap();
    let port = free_port();
    let cluster = Cluster::new(&platform("127.0.31.2", application.address())).await;
    let issuer = Issuer::start(([127, 0, 0, 1], 0).into(), "localhost", cluster.dir.path());
    let issuer = issuer.await.unwrap();
    let keys = format!("https://localhost:{}/keys", issuer.address().port());
    let conduct = json!({
        "jwt": [
            {"issuer": "here", "jwksUri": keys},
            {"issuer": "partner", "audiences": ["web"], "jwksUri": keys},
            // The same keys, in a place whose certificate is of another name.
            {"issuer": "elsewhere", "jwksUri": format!("https://{}/keys", issuer.address())},
        ],
        "access": {
            "allow": [{"claims": {"role": ["admin", "staff"], "scope": ["read"]}}],
            "deny": [{"claims": {"sub": ["mallory"]}}, {"claims": {"suspended": ["true", "2"]}}],
        },
    });
    cluster.publish(7, slice_of(port, from_value(conduct).unwrap()));
    let (trigger, shutdown) = Shutdown::new();
    let config = Config {
        issuer_ca: Some(issuer.ca().to_owned()),
        ..cluster.config()
    };
    let running = start(config, shutdown).await.unwrap();
    let edge = Edge { running, trigger };
    edge.ready().await;
    let node = gateway_proxy();
    let envoy = Proxy::start(
        Software::Envoy,
        &node,
        edge.running.xds_addr,
        "".as_ref(),
        cluster.dir.path(),
    );
    let _envoy = envoy.await.unwrap();

    let front = SocketAddr::from(([127, 0, 31, 2], port));
    let ask = async |shown: Option<String>| {
        let mut request = Request::get("/").header("host", "shop.example.com");
        if let Some(shown) = shown {
            request = request.header("authorization", format!("Bearer {shown}"));
        }
        let reply = send(front, request.body(Full::default())?).await?;
        anyhow::Ok((reply.status.as_u16(), reply.text().to_owned()))
    };
    let good = || json!({"iss": "here", "role": ["x", "staff"], "scope": "write read"});
    eventually(DEADLINE, || async {
        let (status, text) = ask(Some(token(&good()))).await?;
        ensure!(status == 200, "{status} {text}");
        // Who stands behind sees the token.
        ensure!(text.contains("Bearer"), "{text}");
        Ok(())
    })
    .await;
    let with = |claim: &str, value: Value| {
        let mut claims = good();
        claims[claim] = value;
        Some(token(&claims))
    };
    // What one token says, with what another one is signed by.
    let (said, signed) = (token(&good()), token(&json!({})));
    let forged = [
        said.rsplit_once('.').unwrap().0,
        signed.rsplit_once('.').unwrap().1,
    ]
    .join(".");
    for (shown, expected) in [
        (None, (401, "Jwt is missing")),
        (
            Some("abc".to_owned()),
            (
                401,
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            ),
        ),
        (Some(forged), (401, "Jwt verification fails")),
        (
            with("iss", "partner".into()),
            (403, "Audiences in Jwt are not allowed"),
        ),
        (
            with("iss", "stranger".into()),
            (401, "Jwt issuer is not configured"),
        ),
        (
            with("iss", "elsewhere".into()),
            (401, "Jwks remote fetch is failed"),
        ),
        (with("exp", 1.into()), (401, "Jwt is expired")),
        (with("role", "guest".into()), (403, "RBAC: access denied")),
        (with("scope", "reader".into()), (403, "RBAC: access denied")),
        (with("sub", "mallory".into()), (403, "RBAC: access denied")),
        (with("suspended", "true".into()), (403, "RBAC: access denied")),
        (with("suspended", true.into()), (403, "RBAC: access denied")),
        (with("suspended", 2.into()), (403, "RBAC: access denied")),
        (
            with("suspended", json!([false, true])),
            (403, "RBAC: access denied"),
        ),
        (with("suspended", json!([1, 2])), (403, "RBAC: access denied")),
    ] {
        let (status, text) = ask(shown.clone()).await.unwrap();
        assert_eq!((status, text.as_str()), expected, "{shown:?}");
    }
    edge.stop().await;
}
