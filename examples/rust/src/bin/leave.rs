//! Gives answers up with the NATS client of Rust: one by leaving its inbox, another with a word to the fleet.
//!
//! cargo run --release --bin leave -- MODEL PROMPT

use std::{env, time::Duration};

use async_nats::HeaderMap;
use serde_json::json;
use sollol_example::{check, connect, header, next, on, stream, Outcome};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = env::args().collect();
    let client = connect().await?;
    let limit_s = LIMIT.as_secs();
    let body = json!({"model": arguments[1], "prompt": arguments[2], "stream": true, "deadline_s": limit_s});

    let mut chunks = stream(&client, "generate", &body, HeaderMap::new()).await?;
    for _ in 0..2 {
        check(next(&mut chunks, LIMIT).await?);
    }
    chunks.unsubscribe().await?; // the node notices at its next token
    println!("left    : after 2 chunks");

    let inbox = client.new_inbox();
    let (id, secret) = (&inbox[inbox.len() - 22..], &client.new_inbox()[inbox.len() - 22..]);
    let mut headers = HeaderMap::new();
    headers.insert("Sollol-Request-Id", id);
    headers.insert("Sollol-Cancel-Secret", secret);
    let mut chunks = stream(&client, "generate", &body, headers).await?;
    check(next(&mut chunks, LIMIT).await?);
    let cancel = json!({"request_id": id, "secret": secret});
    client.publish(on("cancel"), cancel.to_string().into()).await?;
    let mut code = String::new();
    loop {
        let message = next(&mut chunks, LIMIT).await?;
        if message.payload.is_empty() {
            break;
        }
        code = header(&message, "Nats-Service-Error-Code").into();
    }
    println!("cancel  : {code}");
    Ok(())
}
