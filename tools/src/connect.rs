//! Reaching the broker.
//!
//! Owner: ringctl.

use std::time::Duration;

use ringlog::client::{Client, ClientError, Options};

use crate::output::Stop;

/// How long a command that needs an answer now waits for a broker.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How often a command that waits for ever says so.
const ATTEMPT: Duration = Duration::from_secs(5);

fn options(broker: &str, connect_timeout: Duration) -> Options {
    let mut options = Options::new(broker);
    options.client_id = "ringctl".into();
    options.connect_timeout = connect_timeout;
    options
}

/// Fails if no broker answers soon.
pub async fn connect(broker: &str) -> Result<Client, Stop> {
    Client::connect(options(broker, CONNECT_MAX)).await.map_err(failed)
}

/// Waits for a broker, at most for `patience`; `None`: for ever.
pub async fn wait_for_broker(broker: &str, patience: Option<Duration>) -> Result<Client, Stop> {
    let start = tokio::time::Instant::now();
    loop {
        let left = patience.map(|patience| patience.saturating_sub(start.elapsed()));
        let attempt = left.map_or(ATTEMPT, |left| left.min(ATTEMPT));
        match Client::connect(options(broker, attempt)).await {
            Err(ClientError::Unreachable { broker, text }) => {
                let text = unreachable(&broker, &text);
                if left.is_some_and(|left| left <= ATTEMPT) {
                    return Err(Stop::Failed(text));
                }
                eprintln!("ringctl: {text}; waiting for it");
            }
            result => return result.map_err(failed),
        }
    }
}

/// The client's error with its cure, as far as one is known here.
pub fn failed(error: ClientError) -> Stop {
    match error {
        ClientError::Unreachable { broker, text } => Stop::Failed(unreachable(&broker, &text)),
        error => Stop::failed(error),
    }
}

fn unreachable(broker: &str, text: &str) -> String {
    // A failed attempt begins with the address, which we say already.
    let text = text.strip_prefix(broker).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    format!("no answer from {broker}: {text}; is 'ringlog' running there? see --broker")
}
