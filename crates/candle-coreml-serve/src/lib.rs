//! An HTTP server that speaks OpenAI's interface for the models of candle-coreml.
//!
//! | path | what |
//! |---|---|
//! | `GET /v1/models`, `/v1/models/{id}` | the models |
//! | `POST /v1/chat/completions` | answers, whole or as server-sent events |
//! | `POST /v1/completions` | continues a text |
//! | `POST /v1/embeddings` | vectors of texts, by encoders |
//! | `GET /health` | whether it runs |
//! | `GET /metrics` | figures for Prometheus |
//!
//! A server keeps nothing but caches: the whole conversation comes with every request, so that any number of servers
//! with the same models can stand behind a load balancer. One that sends a client to the same server every time lets
//! the caches work.
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
mod routes;
mod settings;
mod signals;
mod state;

pub use connections::Server;
pub use error::ServeError;
pub use models::Models;
pub use settings::Settings;
pub use signals::signals;
