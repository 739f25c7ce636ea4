//! How the mock GenerativeAgent keeps the mock ASAPP API informed: the two belong to one company and share no process.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

/// What the mock ASAPP API has to know of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// The number was dialled and answered. The answer to this news is the id of the call transfer it belongs to.
    Received {
        /// The number, as dialled.
        number: String,
    },
    /// GenerativeAgent is done with the call.
    Completed {
        /// The number, as dialled. It may belong to another call transfer by now.
        number: String,
        /// The id that `Received` was answered with.
        transfer: Option<String>,
        /// ASAPP's `outputContext`; a call that the customer ended leaves none.
        output: Option<Value>,
    },
}

/// Who is told the news.
#[derive(Clone)]
pub enum Hooks {
    /// Nobody.
    Nobody,
    /// A closure of this process; it answers `Received` with the id of the call transfer, if it knows it.
    Closure(Arc<dyn Fn(News) -> Option<String> + Send + Sync>),
    /// The mock API, by `POST {url}/mock/received` and `POST {url}/mock/completed`; see [`Hooks::http`].
    Http {
        /// Without a slash at its end.
        url: String,
        /// Shared by all calls.
        client: reqwest::Client,
    },
}

impl Hooks {
    /// Tells the mock API under this URL.
    pub fn http(url: &str) -> reqwest::Result<Self> {
        // The client asks for a TLS provider even for plain HTTP; an earlier choice of the process stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
        Ok(Self::Http { url: url.trim_end_matches('/').to_owned(), client })
    }

    pub(super) async fn tell(&self, news: News) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::Closure(closure) => closure(news),
            Self::Http { url, client } => match post(client, url, news).await {
                Ok(transfer) => transfer,
                Err(error) => {
                    tracing::warn!(%error, "the mock API was not told");
                    None
                }
            },
        }
    }
}

async fn post(client: &reqwest::Client, url: &str, news: News) -> reqwest::Result<Option<String>> {
    let (path, body) = match news {
        News::Received { number } => ("received", json!({ "number": number })),
        News::Completed { number, transfer, output } => {
            let mut body = transfer.map_or_else(|| json!({ "number": number }), |id| json!({ "id": id }));
            if let Some(output) = output {
                body["outputContext"] = output;
            }
            ("completed", body)
        }
    };
    let answer = client.post(format!("{url}/mock/{path}")).json(&body).send().await?.error_for_status()?;
    // A completion is answered without a body.
    let answer: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
    Ok(answer["id"].as_str().map(str::to_owned))
}

/// What GenerativeAgent leaves behind when it gives a call back with this `transferType`.
pub fn output_context(transfer_type: &str) -> Value {
    json!({
        "transferType": transfer_type,
        "currentTaskName": "OrderStatus",
        "transferVariables": { "orderNumber": "48213", "intent": "where_is_my_order" },
        "referenceVariables": { "sentiment": "neutral" },
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use axum::{Json, Router};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn the_mock_api_is_told_over_http() {
        let (received, mut news) = unbounded_channel::<(&str, Value)>();
        let completed = received.clone();
        let receive = post(async move |Json(body)| {
            let _ = received.send(("received", body));
            Json(json!({ "id": "one", "conversation": "c" }))
        });
        let complete = post(async move |Json(body)| drop(completed.send(("completed", body))));
        let router = Router::new().route("/mock/received", receive).route("/mock/completed", complete);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hooks = Hooks::http(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });

        let number = "+19995550199".to_owned();
        let transfer = hooks.tell(News::Received { number: number.clone() }).await;
        assert_eq!(transfer.as_deref(), Some("one"));
        let output = Some(output_context("SYSTEM"));
        hooks.tell(News::Completed { number: number.clone(), transfer, output: output.clone() }).await;
        hooks.tell(News::Completed { number, transfer: None, output: None }).await;
        let number = json!({ "number": "+19995550199" });
        assert_eq!(news.recv().await.unwrap(), ("received", number.clone()));
        assert_eq!(news.recv().await.unwrap(), ("completed", json!({ "id": "one", "outputContext": output })));
        assert_eq!(news.recv().await.unwrap(), ("completed", number));
    }
}
