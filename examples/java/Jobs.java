import static io.nats.client.support.JsonValueUtils.mapBuilder;

import io.nats.client.Connection;
import io.nats.client.Message;
import io.nats.client.NUID;
import io.nats.client.Subscription;
import io.nats.client.support.JsonValue;
import java.io.ByteArrayOutputStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;

/** Stores durable jobs and collects their answers: `java -cp 'build:lib/*' Jobs MODEL PROMPT [COUNT]`. */
public final class Jobs {
    private static final Duration LIMIT = Duration.ofSeconds(10);
    private static final Duration LOOK = Duration.ofSeconds(2);
    private static final Set<String> WITHOUT_ANSWER = Set.of("failed", "dead", "cancelled");

    public static void main(String[] arguments) throws Exception {
        int count = arguments.length > 2 ? Integer.parseInt(arguments[2]) : 3;
        try (Connection nc = Fleet.connect()) {
            Subscription events = nc.subscribe(Fleet.newsOfJobs());

            String batch = "example-" + NUID.nextGlobal(); // ids of your own: storing a job again is harmless
            Set<String> waiting = new LinkedHashSet<>();
            JsonValue body = mapBuilder().put("model", arguments[0]).put("prompt", arguments[1]).toJsonValue();
            JsonValue job = mapBuilder().put("body", body).toJsonValue();
            for (int number = 0; number < count; number++) {
                String id = batch + "-" + number;
                Fleet.ask(nc, "jobs.enqueue", mapBuilder().put("job_id", id).put("job", job).toJsonValue(), LIMIT);
                waiting.add(id);
            }
            System.out.println("stored  : " + count); // from here on they survive everything

            while (!waiting.isEmpty()) {
                List<String> ended = new ArrayList<>();
                Message event = events.nextMessage(LOOK);
                if (event == null) {
                    ended.addAll(waiting); // what was said while we were away is still known
                } else {
                    String[] tokens = event.getSubject().split("\\.");
                    String news = tokens[tokens.length - 1];
                    String id = tokens[tokens.length - 2];
                    if (waiting.contains(id) && (news.equals("done") || WITHOUT_ANSWER.contains(news))) ended.add(id);
                }
                for (String id : ended) {
                    if (isAnswered(nc, id)) waiting.remove(id);
                }
            }
        }
    }

    /** Prints the answer of a job once it has one; also long after it ended. */
    private static boolean isAnswered(Connection nc, String id) throws Exception {
        JsonValue question = mapBuilder().put("job_id", id).put("with_result", true).toJsonValue();
        Subscription parts = Fleet.stream(nc, "jobs.get", question, null);
        JsonValue status = Fleet.json(Fleet.check(parts.nextMessage(LIMIT)).getData()).map.get("status");
        ByteArrayOutputStream answer = new ByteArrayOutputStream();
        int count = 1;
        for (Message part; !Fleet.isEnd(part = Fleet.check(parts.nextMessage(LIMIT)), count); count++) {
            answer.write(part.getData());
        }
        parts.unsubscribe();
        String state = Fleet.text(status, "state");
        if (WITHOUT_ANSWER.contains(state)) {
            throw Fleet.fail(Fleet.text(status, "error", "code") + ": " + Fleet.text(status, "error", "message"));
        }
        if (!state.equals("done")) return false;
        System.out.println("answer  : " + Fleet.text(Fleet.json(answer.toByteArray()), "response").strip());
        return true;
    }
}
