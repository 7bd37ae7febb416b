//! OpenAI-compatible HTTP server for candle-coreml models.
//!
//! | path | response |
//! |---|---|
//! | `GET /v1/models`, `/v1/models/{id}` | the models |
//! | `POST /v1/chat/completions` | answers, complete or as server-sent events |
//! | `POST /v1/completions` | text completions |
//! | `POST /v1/responses` | the same answers in OpenAI's newer form; nothing is stored |
//! | `POST /v1/embeddings` | embeddings of texts |
//! | `GET /health` | 200 while the server runs |
//! | `GET /metrics` | Prometheus metrics |
//!
//! The server is stateless apart from caches: each request carries the whole conversation, so any number of servers
//! with the same models can run behind a load balancer. Sticky sessions make the caches effective.
//!
//! ```no_run
//! use candle_coreml_serve::{Models, Server, Settings, signals};
//!
//! # async fn example() -> Result<(), candle_coreml_serve::ServeError> {
//! let settings = Settings::default();
//! let models = Models::load(&[("tiny".to_owned(), "models/tiny-qwen3".into())], &settings)?;
//! let server = Server::bind(models, settings).await?;
//! println!("http://{}", server.address());
//! server.run(signals()?).await;
//! # Ok(())
//! # }
//! ```

mod auth;
mod connections;
mod error;
mod metrics;
mod models;
mod openai;
mod origins;
mod routes;
mod settings;
mod signals;
mod state;

pub use connections::Server;
pub use error::ServeError;
pub use models::Models;
pub use settings::Settings;
pub use signals::signals;
