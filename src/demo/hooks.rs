//! How the mock GenerativeAgent keeps the mock ASAPP API informed: the two belong to one company and share no process.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

/// What the mock ASAPP API has to know of a call. A call that the customer ends completes without an output context.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// The number was dialled and answered.
    Received {
        /// The number, as dialled.
        number: String,
    },
    /// GenerativeAgent is done with the call.
    Completed {
        /// The number, as dialled.
        number: String,
        /// ASAPP's `outputContext`.
        output: Value,
    },
}

/// Who is told the news.
#[derive(Clone)]
pub enum Hooks {
    /// Nobody.
    Nobody,
    /// A closure of this process.
    Closure(Arc<dyn Fn(News) + Send + Sync>),
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

    pub(super) async fn tell(&self, news: News) {
        match self {
            Self::Nobody => {}
            Self::Closure(closure) => closure(news),
            Self::Http { url, client } => {
                if let Err(error) = post(client, url, news).await {
                    tracing::warn!(%error, "the mock API was not told");
                }
            }
        }
    }
}

async fn post(client: &reqwest::Client, url: &str, news: News) -> reqwest::Result<()> {
    let (path, body) = match news {
        News::Received { number } => ("received", json!({ "number": number })),
        News::Completed { number, output } => ("completed", json!({ "number": number, "outputContext": output })),
    };
    client.post(format!("{url}/mock/{path}")).json(&body).send().await?.error_for_status()?;
    Ok(())
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
        let router = Router::new()
            .route("/mock/received", post(async move |Json(body)| drop(received.send(("received", body)))))
            .route("/mock/completed", post(async move |Json(body)| drop(completed.send(("completed", body)))));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hooks = Hooks::http(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });

        let number = "+19995550199".to_owned();
        hooks.tell(News::Received { number: number.clone() }).await;
        hooks.tell(News::Completed { number, output: output_context("SYSTEM") }).await;
        assert_eq!(news.recv().await.unwrap(), ("received", json!({ "number": "+19995550199" })));
        let (path, body) = news.recv().await.unwrap();
        assert_eq!((path, &body["outputContext"]["transferType"]), ("completed", &json!("SYSTEM")));
    }
}
