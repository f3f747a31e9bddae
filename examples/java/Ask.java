import static io.nats.client.support.JsonValueUtils.mapBuilder;

import io.nats.client.Connection;
import io.nats.client.Message;
import io.nats.client.Subscription;
import io.nats.client.support.JsonValue;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;

/** Asks, streams and watches with the NATS client of Java: `java -cp 'build:lib/*' Ask MODEL PROMPT [SECONDS]`. */
public final class Ask {
    public static void main(String[] arguments) throws Exception {
        double limitS = arguments.length > 2 ? Double.parseDouble(arguments[2]) : 60;
        Duration limit = Duration.ofMillis((long) (limitS * 1000)).plus(Fleet.PATIENCE);
        try (Connection nc = Fleet.connect()) {
            Subscription decisions = Fleet.hearsDecisions() ? nc.subscribe("sollol.v1.events.routing.*") : null;

            // The fleet stops working on it when we stop waiting.
            var body = mapBuilder().put("model", arguments[0]).put("prompt", arguments[1]).put("deadline_s", limitS);
            Message whole = Fleet.ask(nc, "generate", body.toJsonValue(), limit);
            JsonValue where = decisionOf(whole);
            System.out.println("whole   : " + Fleet.text(Fleet.json(whole.getData()), "response").strip());
            System.out.println("where   : " + Fleet.text(where, "node_id"));
            Map<String, JsonValue> asked = new HashMap<>(Map.of(Fleet.text(where, "request_id"), where));

            body.put("stream", true).put("priority", 8);
            Subscription chunks = Fleet.stream(nc, "generate", body.toJsonValue(), null);
            System.out.print("stream  :");
            for (int count = 0; ; count++) {
                Message msg = Fleet.check(chunks.nextMessage(limit));
                if (Fleet.isEnd(msg, count)) break;
                if (count == 0) asked.put(Fleet.text(decisionOf(msg), "request_id"), decisionOf(msg));
                System.out.print(Fleet.text(Fleet.json(msg.getData()), "response"));
            }
            System.out.println();

            while (!asked.isEmpty()) {
                JsonValue made = decisions == null ? asked.values().iterator().next() : next(decisions);
                String id = Fleet.text(made, "request_id");
                if (asked.remove(id) == null) continue;
                String node = Fleet.text(made, "node_id");
                System.out.println("decision: " + id + " on " + node + " because " + Fleet.text(made, "reason"));
            }
        }
    }

    private static JsonValue next(Subscription decisions) throws Exception {
        Message msg = Fleet.check(decisions.nextMessage(Duration.ofSeconds(10)));
        return Fleet.json(msg.getData()).map.get("decision");
    }

    private static JsonValue decisionOf(Message msg) throws Exception {
        return Fleet.json(Fleet.header(msg, "Sollol-Decision").getBytes());
    }
}
