//! An issuer of tokens: its keys over TLS, at a certificate of its own authority, and tokens that are signed by them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData, SigningKey,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// All issuers of a process sign by it.
static KEY: LazyLock<KeyPair> = LazyLock::new(|| {
    KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("the system has no randomness for a key")
});

/// One that is listening; gone on drop.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    ca: PathBuf,
    server: JoinHandle<()>,
}

impl Issuer {
    /// Shows its keys at any path of that address, as `name`, and writes its authority into `dir`.
    ///
    /// # Errors
    /// The address is taken, or the file cannot be written.
    pub async fn start(address: SocketAddr, name: &str, dir: &Path) -> Result<Issuer> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        // Of the authority's own name it would seem to be signed by itself.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &authority)?;
        let ca = dir.join("issuer-ca.pem");
        fs::write(&ca, authority.pem()).context("cannot write the issuer's authority")?;
        let tls = ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind(address)
            .await
            .context("the issuer cannot listen")?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who breaks off asks again.
                    answer(&acceptor, stream).await.ok();
                });
            }
        });
        Ok(Issuer { address, ca, server })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its authority, in PEM.
    pub fn ca(&self) -> &Path {
        &self.ca
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A token that says so.
///
/// # Panics
/// Never: the key is one that signs.
pub fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let said = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": "a"})), part(claims));
    let signature = KEY.sign(said.as_bytes()).expect("invariant: the key signs");
    format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature))
}

async fn answer(acceptor: &TlsAcceptor, stream: TcpStream) -> Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(stream.read_u8().await?);
    }
    let public = URL_SAFE_NO_PAD.encode(KEY.der_bytes());
    let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": public}]}).to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        keys.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(keys.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
