import io.nats.client.AuthHandler;
import io.nats.client.Connection;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.nats.client.Subscription;
import io.nats.client.impl.Headers;
import io.nats.client.impl.NatsMessage;
import io.nats.client.support.JsonParser;
import io.nats.client.support.JsonValue;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** What every program here needs: a connection with the caller's credentials, its subjects, and how to read an answer. */
final class Fleet {
    /** An answer to a deadline that has passed may come so much later. */
    static final Duration PATIENCE = Duration.ofSeconds(5);

    /** Whoever has a file of credentials asks under the name in it, and listens for answers below that. */
    private static final String CREDS = given("SOLLOL_NATS_CREDS_FILE", "");
    private static final String NAME = ownName();

    private Fleet() {}

    private static String given(String name, String otherwise) {
        String text = System.getenv(name);
        return text == null || text.isEmpty() ? otherwise : text;
    }

    private static String ownName() {
        try {
            String text = CREDS.isEmpty() ? "" : Files.readString(Path.of(CREDS));
            Matcher found = Pattern.compile("_INBOX_cli\\.([\\w-]+)").matcher(text);
            return found.find() ? found.group(1) : "";
        } catch (IOException error) {
            throw fail(error.toString());
        }
    }

    /** The subject for a question. */
    static String on(String what) {
        return NAME.isEmpty() ? "sollol.v1." + what : "sollol.v1.as." + NAME + "." + what;
    }

    /** A client among members hears nobody's decisions; those about its own requests come with the answers. */
    static boolean hearsDecisions() {
        return NAME.isEmpty();
    }

    /** The subject on which the caller's jobs are told of; the last two tokens are a job's id and its state. */
    static String newsOfJobs() {
        return "sollol.v1.events.job." + (NAME.isEmpty() ? "" : NAME + ".") + "*.*";
    }

    /** A connection with what the environment says: a user and password, or a file of credentials. */
    static Connection connect() throws Exception {
        // `reportNoResponders`: else the client keeps to itself that nobody is there
        Options.Builder options = Options.builder()
                .server(given("SOLLOL_NATS", Options.DEFAULT_URL))
                .reportNoResponders()
                .connectionTimeout(Duration.ofSeconds(10))
                .inboxPrefix(NAME.isEmpty() ? "_INBOX." : "_INBOX_cli." + NAME + ".");
        String user = given("SOLLOL_NATS_USER", "");
        String ca = given("SOLLOL_NATS_TLS_CA_FILE", "");
        if (!user.isEmpty()) options.userInfo(user, given("SOLLOL_NATS_PASSWORD", ""));
        if (!CREDS.isEmpty()) {
            AuthHandler keys = Nats.credentials(CREDS);
            keys.sign(new byte[1]); // the first signature takes longer than a server may wait for it
            options.authHandler(keys);
        }
        if (!ca.isEmpty()) options.sslContext(trusting(ca));
        return Nats.connect(options.build());
    }

    private static SSLContext trusting(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream in = new FileInputStream(file)) {
            store.setCertificateEntry("fleet", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static RuntimeException fail(String text) {
        System.out.flush();
        System.err.println(text);
        System.exit(1);
        return new IllegalStateException(text);
    }

    /** The message; ends the program when none came, when it is an error, or says that nobody is there. */
    static Message check(Message msg) {
        if (msg == null) throw fail("no answer in time");
        String code = header(msg, "Nats-Service-Error-Code");
        if (!code.isEmpty()) throw fail(code + ": " + header(msg, "Nats-Service-Error"));
        // the server itself says so, with an empty message: not the end of an answer
        if (msg.isStatusMessage() && msg.getStatus().getCode() == 503) {
            throw fail("503: nobody answers there: is `sollol up` running?");
        }
        return msg;
    }

    static String header(Message msg, String name) {
        String text = msg.hasHeaders() ? msg.getHeaders().getLast(name) : null;
        return text == null ? "" : text;
    }

    /** Publishes a question; its answers come to an inbox of its own. */
    static Subscription stream(Connection nc, String what, JsonValue body, Headers headers) {
        String inbox = nc.createInbox();
        Subscription answers = nc.subscribe(inbox);
        byte[] data = body.toJson().getBytes(StandardCharsets.UTF_8);
        nc.publish(NatsMessage.builder().subject(on(what)).replyTo(inbox).headers(headers).data(data).build());
        return answers;
    }

    /** The answer to a question that has one. */
    static Message ask(Connection nc, String what, JsonValue body, Duration limit) throws Exception {
        Subscription answers = stream(nc, what, body, null);
        Message answer = check(answers.nextMessage(limit));
        answers.unsubscribe();
        return answer;
    }

    /** Whether a stream is whole with this message, after `count` others. */
    static boolean isEnd(Message msg, int count) {
        if (msg.getData().length > 0) return false;
        if (!header(msg, "Sollol-Chunks").equals(String.valueOf(count))) {
            throw fail("pieces of the answer were lost on the way");
        }
        return true;
    }

    /** A field of a message, or of what is in its field, and so on. */
    static String text(JsonValue value, String... path) {
        for (String name : path) value = value == null || value.map == null ? null : value.map.get(name);
        return value == null || value.string == null ? "" : value.string;
    }

    static JsonValue json(byte[] data) throws Exception {
        return JsonParser.parse(data);
    }
}
