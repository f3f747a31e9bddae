//! Asks, streams and watches with the NATS client of Rust.
//!
//! cargo run --release -- MODEL PROMPT [SECONDS]

use std::{collections::HashMap, env, io::Write, time::Duration};

use async_nats::HeaderMap;
use serde_json::{json, Value};
use sollol_example::{ask, check, connect, header, hears_decisions, is_end, next, stream, Outcome, PATIENCE};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = env::args().collect();
    let limit_s: f64 = arguments.get(3).map_or(Ok(60.0), |text| text.parse())?;
    let limit = Duration::from_secs_f64(limit_s) + PATIENCE;
    let client = connect().await?;
    let mut decisions = match hears_decisions() {
        true => Some(client.subscribe("sollol.v1.events.routing.*").await?),
        false => None,
    };

    // The fleet stops working on it when we stop waiting.
    let mut body = json!({"model": arguments[1], "prompt": arguments[2], "deadline_s": limit_s});
    let whole = ask(&client, "generate", &body, limit).await?;
    let answer: Value = serde_json::from_slice(&whole.payload)?;
    let place: Value = serde_json::from_str(header(&whole, "Sollol-Decision"))?;
    println!("whole   : {}", answer["response"].as_str().unwrap_or_default().trim());
    println!("where   : {}", place["node_id"].as_str().unwrap_or_default());
    let mut asked = HashMap::from([(place["request_id"].to_string(), place)]);

    body["stream"] = json!(true);
    body["priority"] = json!(8);
    let mut chunks = stream(&client, "generate", &body, HeaderMap::new()).await?;
    print!("stream  :");
    for count in 0.. {
        let message = check(next(&mut chunks, limit).await?);
        if is_end(&message, count) {
            break;
        }
        if count == 0 {
            let place: Value = serde_json::from_str(header(&message, "Sollol-Decision"))?;
            asked.insert(place["request_id"].to_string(), place);
        }
        let chunk: Value = serde_json::from_slice(&message.payload)?;
        print!("{}", chunk["response"].as_str().unwrap_or_default());
        std::io::stdout().flush()?;
    }
    println!();

    while !asked.is_empty() {
        let made = match &mut decisions {
            Some(heard) => {
                let message = next(heard, Duration::from_secs(10)).await?;
                serde_json::from_slice::<Value>(&message.payload)?["decision"].take()
            }
            None => asked.values().next().cloned().unwrap_or_default(),
        };
        if asked.remove(&made["request_id"].to_string()).is_some() {
            println!("decision: {} on {} because {}", made["request_id"], made["node_id"], made["reason"]);
        }
    }
    Ok(())
}
