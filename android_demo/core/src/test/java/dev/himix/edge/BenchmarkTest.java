package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The record that the benchmark writes is one that himix-edge reads. */
public class BenchmarkTest {
    @Rule public final TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void pythonReadsTheRecord() throws Exception {
        Fixtures.loadRuntime();
        List<Benchmark.Question> questions = new ArrayList<>();
        for (Map<String, Object> question : Fixtures.cases("questions").subList(0, 4)) {
            File file = new File(Fixtures.FOLDER, (String) question.get("image"));
            questions.add(
                    new Benchmark.Question(file.getName(), Fixtures.photo(file), (String) question.get("prompt")));
        }
        int[] progress = {0};
        Benchmark.Platform platform =
                new Benchmark.Platform() {
                    @Override
                    public Map<String, Object> device() {
                        Map<String, Object> device = new LinkedHashMap<>();
                        device.put("name", "desktop JVM");
                        device.put("kind", "computer");
                        return device;
                    }

                    @Override
                    public Map<String, Object> reading() {
                        return Collections.singletonMap("battery_percent", 50.0);
                    }

                    @Override
                    public Session.Photo photo(File file) {
                        return Fixtures.photo(file);
                    }

                    @Override
                    public void progress(int done, int of) {
                        progress[0] = done;
                    }
                };
        Map<String, Object> record = new Benchmark(Fixtures.BUNDLE, questions, platform, 2, 6, 2).run("test");
        File file = folder.newFile("record.json");
        Files.write(file, Json.write(record).getBytes(StandardCharsets.UTF_8));
        List<?> read = (List<?>) Fixtures.python("--record", file.getPath());
        Map<?, ?> back = (Map<?, ?>) read.get(0);
        assertEquals("valid", back.get("verdict"));
        assertEquals(true, back.get("self_test_passed"));
        Map<?, ?> samples = (Map<?, ?>) back.get("samples");
        for (String stage : new String[] {"preprocess", "vision_encoder", "vision_injector", "prefill", "ttft", "warm_ttft"}) {
            assertEquals(stage, 6, ((List<?>) samples.get(stage)).size());
        }
        assertEquals(1, ((List<?>) samples.get("load")).size());
        assertEquals(2, ((List<?>) samples.get("load_warm")).size());
        assertEquals(8, progress[0]);
        assertEquals(4, ((List<?>) back.get("answers")).size());
        Map<?, ?> answer = (Map<?, ?>) ((List<?>) back.get("answers")).get(0);
        assertEquals("triangle", answer.get("text"));
        assertEquals(Files.sha256("356".getBytes(StandardCharsets.US_ASCII)), answer.get("token_ids_sha256"));
        assertTrue(((Number) ((Map<?, ?>) back.get("memory")).get("peak_bytes")).longValue() > 1 << 20);
    }
}
