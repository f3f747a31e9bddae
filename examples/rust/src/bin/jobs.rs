//! Submits a durable job, follows it and fetches its answer with the NATS client of Rust.
//!
//! cargo run --release --bin jobs -- MODEL PROMPT

use std::{env, error::Error, process, time::SystemTime};

use async_nats::HeaderMap;
use futures_util::StreamExt;
use serde_json::{json, Value};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let url = env::var("SOLLOL_NATS").unwrap_or_else(|_| "nats://127.0.0.1:4222".into());
    let client = async_nats::connect(url).await?;
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let id = format!("example-{nanos:x}"); // an id of your own: submitting it again is harmless
    let mut events = client.subscribe(format!("sollol.v1.events.job.{id}.*")).await?;

    let job = json!({"body": {"model": arguments[1], "prompt": arguments[2]}});
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    let subject = format!("sollol.v1.jobs.submit.5.{id}");
    let stored = client.request_with_headers(subject, headers, job.to_string().into()).await?;
    let ack: Value = serde_json::from_slice(&stored.payload)?;
    if !ack["error"].is_null() {
        return Err(ack["error"]["description"].to_string().into());
    }
    println!("stored  : {id} in {}", ack["stream"]); // from here on it survives everything

    let mut news = String::new();
    while !["done", "failed", "dead", "cancelled"].contains(&news.as_str()) {
        let message = events.next().await.ok_or("the subscription ended")?;
        let event: Value = serde_json::from_slice(&message.payload)?;
        news = event["news"].as_str().unwrap_or_default().into();
        println!("news    : {news}");
    }

    let inbox = client.new_inbox();
    let mut parts = client.subscribe(inbox.clone()).await?;
    let question = json!({"job_id": id, "with_result": true});
    client.publish_with_reply("sollol.v1.jobs.get", inbox, question.to_string().into()).await?;
    let first = parts.next().await.ok_or("no answer")?;
    let known: Value = serde_json::from_slice(&first.payload)?;
    let mut answer = Vec::new();
    while let Some(part) = parts.next().await {
        if part.payload.is_empty() {
            break; // the empty message is the end
        }
        answer.extend_from_slice(&part.payload);
    }
    if news != "done" {
        let error = &known["status"]["error"];
        eprintln!("{}: {}", error["code"], error["message"]);
        process::exit(1);
    }
    let whole: Value = serde_json::from_slice(&answer)?;
    println!("answer  : {}", whole["response"].as_str().unwrap_or_default().trim());
    Ok(())
}
