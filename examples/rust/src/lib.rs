//! What every program here needs: a connection with the caller's credentials, its subjects, and how to read an answer.

use std::{env, error::Error, fs, process, time::Duration};

use async_nats::{Client, ConnectOptions, HeaderMap, Message, RequestErrorKind, StatusCode, Subscriber};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::timeout;

pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// An answer to a deadline that has passed may come so much later.
pub const PATIENCE: Duration = Duration::from_secs(5);
const NOBODY: &str = "503: nobody answers there: is `sollol up` running?";

fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

/// Whoever has a file of credentials asks under the name in it, and listens for answers below that.
fn own_name() -> Option<String> {
    let creds = fs::read_to_string(given("SOLLOL_NATS_CREDS_FILE")?).ok()?;
    let (_, behind) = creds.split_once("_INBOX_cli.")?;
    behind.split_whitespace().next().map(Into::into)
}

/// The subject for a question.
pub fn on(what: &str) -> String {
    match own_name() {
        Some(name) => format!("sollol.v1.as.{name}.{what}"),
        None => format!("sollol.v1.{what}"),
    }
}

/// A client among members hears nobody's decisions; those about its own requests come with the answers.
pub fn hears_decisions() -> bool {
    own_name().is_none()
}

/// The subject on which the caller's jobs are told of; the last two tokens are a job's id and its state.
pub fn news_of_jobs() -> String {
    match own_name() {
        Some(name) => format!("sollol.v1.events.job.{name}.*.*"),
        None => "sollol.v1.events.job.*.*".into(),
    }
}

/// A connection with what the environment says: a user and password, or a file of credentials.
pub async fn connect() -> Outcome<Client> {
    let mut options = ConnectOptions::new();
    if let Some(name) = own_name() {
        options = options.custom_inbox_prefix(format!("_INBOX_cli.{name}"));
    }
    if let Some(user) = given("SOLLOL_NATS_USER") {
        options = options.user_and_password(user, given("SOLLOL_NATS_PASSWORD").unwrap_or_default());
    }
    if let Some(file) = given("SOLLOL_NATS_CREDS_FILE") {
        options = options.credentials_file(file).await?;
    }
    if let Some(file) = given("SOLLOL_NATS_TLS_CA_FILE") {
        options = options.add_root_certificates(file.into());
    }
    let url = given("SOLLOL_NATS").unwrap_or_else(|| "nats://127.0.0.1:4222".into());
    Ok(options.connect(url.split(',').collect::<Vec<_>>()).await?)
}

pub fn fail(text: impl std::fmt::Display) -> ! {
    eprintln!("{text}");
    process::exit(1)
}

pub fn header<'a>(message: &'a Message, name: &str) -> &'a str {
    message.headers.as_ref().and_then(|headers| headers.get(name)).map_or("", |value| value.as_str())
}

/// The message; ends the program when it is an error, or says that nobody is there.
pub fn check(message: Message) -> Message {
    let code = header(&message, "Nats-Service-Error-Code");
    if !code.is_empty() {
        fail(format!("{code}: {}", header(&message, "Nats-Service-Error")));
    }
    // the server itself says so, with an empty message: not the end of an answer
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        fail(NOBODY);
    }
    message
}

/// The answer to a question that has one.
pub async fn ask(client: &Client, what: &str, body: &Value, limit: Duration) -> Outcome<Message> {
    let asked = async_nats::Request::new().payload(body.to_string().into()).timeout(Some(limit));
    match client.send_request(on(what), asked).await {
        Err(error) if error.kind() == RequestErrorKind::NoResponders => fail(NOBODY),
        answer => Ok(check(answer?)),
    }
}

/// Publishes a question that has many answers; they come to an inbox of its own.
pub async fn stream(client: &Client, what: &str, body: &Value, headers: HeaderMap) -> Outcome<Subscriber> {
    let inbox = client.new_inbox();
    let answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply_and_headers(on(what), inbox, headers, body.to_string().into()).await?;
    Ok(answers)
}

/// The next message of a stream; a request may be lost with a server that stops.
pub async fn next(answers: &mut Subscriber, limit: Duration) -> Outcome<Message> {
    Ok(timeout(limit, answers.next()).await?.ok_or("the subscription ended")?)
}

/// Whether a stream is whole with this message, after `count` others.
pub fn is_end(message: &Message, count: usize) -> bool {
    if !message.payload.is_empty() {
        return false;
    }
    if header(message, "Sollol-Chunks") != count.to_string() {
        fail("pieces of the answer were lost on the way");
    }
    true
}
