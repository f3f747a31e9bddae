//! Stores durable jobs and collects their answers with the NATS client of Rust.
//!
//! cargo run --release --bin jobs -- MODEL PROMPT [COUNT]

use std::{collections::HashSet, env, time::Duration, time::SystemTime};

use async_nats::{Client, HeaderMap};
use serde_json::{json, Value};
use sollol_example::{ask, check, connect, fail, is_end, news_of_jobs, next, stream, Outcome};

const LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(2);
const ENDS: [&str; 4] = ["done", "failed", "dead", "cancelled"];

/// What is known about a job, and its answer once it has one; also long after it ended.
async fn answer_of(client: &Client, id: &str) -> Outcome<(Value, Vec<u8>)> {
    let question = json!({"job_id": id, "with_result": true});
    let mut parts = stream(client, "jobs.get", &question, HeaderMap::new()).await?;
    let first = check(next(&mut parts, LIMIT).await?);
    let mut known: Value = serde_json::from_slice(&first.payload)?;
    let mut answer = Vec::new();
    for count in 1.. {
        let part = check(next(&mut parts, LIMIT).await?);
        if is_end(&part, count) {
            break;
        }
        answer.extend_from_slice(&part.payload);
    }
    Ok((known["status"].take(), answer))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = env::args().collect();
    let count: usize = arguments.get(3).map_or(Ok(3), |text| text.parse())?;
    let client = connect().await?;
    let mut events = client.subscribe(news_of_jobs()).await?;

    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    // ids of your own: storing a job again is harmless
    let mut waiting: HashSet<String> = (0..count).map(|number| format!("example-{nanos:x}-{number}")).collect();
    for id in &waiting {
        let body = json!({"model": arguments[1], "prompt": arguments[2]});
        ask(&client, "jobs.enqueue", &json!({"job_id": id, "job": {"body": body}}), LIMIT).await?;
    }
    println!("stored  : {count}"); // from here on they survive everything

    while !waiting.is_empty() {
        let ended: Vec<String> = match next(&mut events, LOOK).await {
            Ok(message) => {
                let mut tokens = message.subject.rsplit('.');
                let (news, id) = (tokens.next().unwrap_or_default(), tokens.next().unwrap_or_default());
                waiting.get(id).filter(|_| ENDS.contains(&news)).cloned().into_iter().collect()
            }
            Err(_) => waiting.iter().cloned().collect(), // what was said while we were away is still known
        };
        for id in ended {
            let (status, answer) = answer_of(&client, &id).await?;
            let state = status["state"].as_str().unwrap_or_default();
            if ENDS[1..].contains(&state) {
                fail(format!("{}: {}", status["error"]["code"], status["error"]["message"]));
            }
            if state == ENDS[0] {
                waiting.remove(&id);
                let whole: Value = serde_json::from_slice(&answer)?;
                println!("answer  : {}", whole["response"].as_str().unwrap_or_default().trim());
            }
        }
    }
    Ok(())
}
