//! Asks, streams and watches with the NATS client of Rust.
//!
//! cargo run --release -- MODEL PROMPT

use std::{env, error::Error, io::Write, process, time::Duration};

use async_nats::Message;
use futures_util::StreamExt;
use serde_json::{json, Value};
use tokio::time::timeout;

fn check(message: &Message) {
    let Some(headers) = &message.headers else { return };
    if let Some(code) = headers.get("Nats-Service-Error-Code") {
        let text = headers.get("Nats-Service-Error").map(|v| v.as_str()).unwrap_or_default();
        eprintln!("{code}: {text}");
        process::exit(1);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let url = env::var("SOLLOL_NATS").unwrap_or_else(|_| "nats://127.0.0.1:4222".into());
    let client = async_nats::connect(url).await?;
    let mut decisions = client.subscribe("sollol.v1.events.routing.*").await?;

    let mut body = json!({"model": arguments[1], "prompt": arguments[2]});
    let whole = client.request("sollol.v1.generate", body.to_string().into()).await?;
    check(&whole);
    let answer: Value = serde_json::from_slice(&whole.payload)?;
    println!("whole   : {}", answer["response"].as_str().unwrap_or_default().trim());

    body["stream"] = json!(true);
    body["priority"] = json!(8);
    let inbox = client.new_inbox();
    let mut chunks = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply("sollol.v1.generate", inbox, body.to_string().into()).await?;
    print!("stream  :");
    // a request may be lost with a server that stops
    while let Some(message) = timeout(Duration::from_secs(60), chunks.next()).await? {
        check(&message);
        if message.payload.is_empty() {
            break; // the empty message ends the stream
        }
        let chunk: Value = serde_json::from_slice(&message.payload)?;
        print!("{}", chunk["response"].as_str().unwrap_or_default());
        std::io::stdout().flush()?;
    }
    println!();

    for _ in 0..2 {
        let message = decisions.next().await.ok_or("the subscription ended")?;
        let event: Value = serde_json::from_slice(&message.payload)?;
        let made = &event["decision"];
        println!("decision: {} on {} because {}", made["request_id"], made["node_id"], made["reason"]);
    }
    Ok(())
}
