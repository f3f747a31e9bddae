import static io.nats.client.support.JsonValueUtils.mapBuilder;

import io.nats.client.Connection;
import io.nats.client.Message;
import io.nats.client.Subscription;
import io.nats.client.support.JsonValue;
import java.time.Duration;
import java.util.HashSet;
import java.util.Set;

/** Asks, streams and watches with the NATS client of Java: `java -cp 'build:lib/*' Ask MODEL PROMPT [SECONDS]`. */
public final class Ask {
    public static void main(String[] arguments) throws Exception {
        double limitS = arguments.length > 2 ? Double.parseDouble(arguments[2]) : 60;
        Duration limit = Duration.ofMillis((long) (limitS * 1000)).plus(Fleet.PATIENCE);
        try (Connection nc = Fleet.connect()) {
            Subscription decisions = nc.subscribe("sollol.v1.events.routing.*");

            // The fleet stops working on it when we stop waiting.
            var body = mapBuilder().put("model", arguments[0]).put("prompt", arguments[1]).put("deadline_s", limitS);
            Message whole = Fleet.ask(nc, "generate", body.toJsonValue(), limit);
            JsonValue where = decisionOf(whole);
            System.out.println("whole   : " + Fleet.text(Fleet.json(whole.getData()), "response").strip());
            System.out.println("where   : " + Fleet.text(where, "node_id"));
            Set<String> asked = new HashSet<>(Set.of(Fleet.text(where, "request_id")));

            body.put("stream", true).put("priority", 8);
            Subscription chunks = Fleet.stream(nc, "generate", body.toJsonValue(), null);
            System.out.print("stream  :");
            for (int count = 0; ; count++) {
                Message msg = Fleet.check(chunks.nextMessage(limit));
                if (Fleet.isEnd(msg, count)) break;
                if (count == 0) asked.add(Fleet.text(decisionOf(msg), "request_id"));
                System.out.print(Fleet.text(Fleet.json(msg.getData()), "response"));
            }
            System.out.println();

            while (!asked.isEmpty()) {
                Message msg = Fleet.check(decisions.nextMessage(Duration.ofSeconds(10)));
                JsonValue event = Fleet.json(msg.getData());
                String id = Fleet.text(event, "decision", "request_id");
                if (!asked.remove(id)) continue;
                String node = Fleet.text(event, "decision", "node_id");
                System.out.println("decision: " + id + " on " + node + " because " + Fleet.text(event, "decision", "reason"));
            }
        }
    }

    private static JsonValue decisionOf(Message msg) throws Exception {
        return Fleet.json(Fleet.header(msg, "Sollol-Decision").getBytes());
    }
}
