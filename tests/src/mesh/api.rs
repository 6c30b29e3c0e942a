//! What is asked of management, as its users ask it.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{Mesh, RUNNING_TIMEOUT};
use crate::client::{self, Reply};
use crate::feed::ORGANIZATION;
use crate::within;

impl Mesh {
    /// One request to the API. `path` is below `/v1/`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn call(&self, token: &str, method: Method, path: &str, body: Option<&Value>) -> Result<Reply> {
        self.call_if(token, method, path, body, None).await
    }

    /// As [`Mesh::call`], with `If-Match`.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn call_if(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        etag: Option<&str>,
    ) -> Result<Reply> {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(etag) = etag {
            request = request.header(header::IF_MATCH, etag);
        }
        client::send(self.api(), request.body(Full::new(body))?).await
    }

    /// Writes many resources, as YAML documents, in one transaction.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn change(&self, token: &str, yaml: &str) -> Result<Reply> {
        let request = Request::post("/v1/changes")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/yaml")
            .body(Full::from(yaml.to_owned()))?;
        client::send(self.api(), request).await
    }

    /// As [`Mesh::change`], by the administrator, who is right.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn write(&self, yaml: &str) -> Result<()> {
        let reply = self.change(&self.admin_token, yaml).await?;
        ensure!(
            reply.status.is_success(),
            "refused with {}: {}",
            reply.status,
            reply.text()
        );
        Ok(())
    }

    /// What is known of a resource at its latest revision: the status in the answer to `GET NAME:receipt`.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn receipt(&self, name: &str) -> Result<Value> {
        let reply = self
            .call(&self.admin_token, Method::GET, &format!("{name}:receipt"), None)
            .await?
            .expect(StatusCode::OK)?;
        let mut answer: Value = serde_json::from_slice(&reply.body).context("a receipt is JSON")?;
        Ok(answer["status"].take())
    }

    /// Waits until every proxy that a resource concerns has proven that it runs it.
    ///
    /// # Errors
    /// It does not get there; the text has the last receipt.
    pub async fn running(&self, name: &str) -> Result<()> {
        within(RUNNING_TIMEOUT, async || {
            let receipt = self.receipt(name).await?;
            ensure!(receipt["outcome"] == "running", "{name}: {receipt}");
            Ok(())
        })
        .await
    }

    /// Makes a user, and a token for it.
    ///
    /// # Errors
    /// The API refuses.
    pub async fn new_user(&self, user: &str) -> Result<String> {
        let name = format!("organizations/{ORGANIZATION}/users/{user}");
        self.write(&format!("{{name: {name}, spec: {{}}}}")).await?;
        let reply = self
            .call(
                &self.admin_token,
                Method::POST,
                &format!("{name}/tokens"),
                Some(&json!({})),
            )
            .await?;
        ensure!(reply.status.is_success(), "no token: {}", reply.text());
        let answer: Value = serde_json::from_slice(&reply.body)?;
        answer["token"]
            .as_str()
            .map(str::to_owned)
            .context("the answer has no token")
    }
}
