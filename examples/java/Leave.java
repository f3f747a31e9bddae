import static io.nats.client.support.JsonValueUtils.mapBuilder;

import io.nats.client.Connection;
import io.nats.client.Message;
import io.nats.client.NUID;
import io.nats.client.Subscription;
import io.nats.client.impl.Headers;
import io.nats.client.support.JsonValue;
import java.time.Duration;

/** Gives answers up, by leaving an inbox and with a word to the fleet: `java -cp 'build:lib/*' Leave MODEL PROMPT`. */
public final class Leave {
    private static final Duration LIMIT = Duration.ofMinutes(1);

    public static void main(String[] arguments) throws Exception {
        try (Connection nc = Fleet.connect()) {
            JsonValue body = mapBuilder()
                    .put("model", arguments[0])
                    .put("prompt", arguments[1])
                    .put("stream", true)
                    .put("deadline_s", LIMIT.toSeconds())
                    .toJsonValue();

            Subscription chunks = Fleet.stream(nc, "generate", body, null);
            for (int count = 0; count < 2; count++) Fleet.check(chunks.nextMessage(LIMIT));
            chunks.unsubscribe(); // the node notices at its next token
            System.out.println("left    : after 2 chunks");

            String id = NUID.nextGlobal();
            String secret = NUID.nextGlobal();
            Headers own = new Headers().put("Sollol-Request-Id", id).put("Sollol-Cancel-Secret", secret);
            chunks = Fleet.stream(nc, "generate", body, own);
            Fleet.check(chunks.nextMessage(LIMIT));
            String cancel = mapBuilder().put("request_id", id).put("secret", secret).toJsonValue().toJson();
            nc.publish(Fleet.on("cancel"), cancel.getBytes());
            String code = "";
            Message msg = chunks.nextMessage(LIMIT);
            for (; msg != null && msg.getData().length > 0; msg = chunks.nextMessage(LIMIT)) {
                code = Fleet.header(msg, "Nats-Service-Error-Code");
            }
            System.out.println("cancel  : " + code);
        }
    }
}
