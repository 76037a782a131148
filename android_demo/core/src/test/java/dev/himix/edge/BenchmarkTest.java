package dev.himix.edge;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
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
        for (Map<String, Object> question : Fixtures.questions().subList(0, 12)) {
            File file = Fixtures.file("images/" + question.get("image"));
            questions.add(
                    new Benchmark.Question(file.getName(), Fixtures.photo(file), (String) question.get("prompt")));
        }
        int[] progress = {0};
        Benchmark.Platform platform = platform(progress, "none");
        Map<String, Object> record = new Benchmark(Fixtures.BUNDLE, questions, platform, options(5, 10)).run("test");
        File file = folder.newFile("record.json");
        Files.write(file, Json.write(record).getBytes(StandardCharsets.UTF_8));
        List<?> read = (List<?>) Fixtures.python("record", file.getPath());
        Map<?, ?> back = (Map<?, ?>) read.get(0);
        assertTrue(back.toString(), !back.get("verdict").equals("invalid"));
        assertEquals(true, back.get("self_test_passed"));
        Map<?, ?> samples = (Map<?, ?>) back.get("samples");
        for (String stage : new String[] {"preprocess", "vision_encoder", "vision_injector", "prefill", "ttft", "warm_ttft"}) {
            assertEquals(stage, 10, ((List<?>) samples.get(stage)).size());
        }
        assertEquals(1, ((List<?>) samples.get("load_warm")).size());
        assertEquals(15, progress[0]);
        assertEquals(5, ((List<?>) back.get("answers")).size());
        Map<?, ?> answer = (Map<?, ?>) ((List<?>) back.get("answers")).get(0);
        Map<String, Object> expected = Fixtures.questions().get(0);
        assertEquals(expected.get("text"), answer.get("text"));
        String ids = Arrays.stream(Fixtures.ints(expected.get("token_ids"))).mapToObj(String::valueOf).collect(Collectors.joining(","));
        assertEquals(Files.sha256(ids.getBytes(StandardCharsets.US_ASCII)), answer.get("token_ids_sha256"));
        assertTrue(((Number) ((Map<?, ?>) back.get("memory")).get("peak_bytes")).longValue() > 1 << 20);
    }

    /** Answers end where the model ends them, as those of the suite. */
    private static Benchmark.Options options(int warmUp, int timed) {
        Benchmark.Options options = new Benchmark.Options();
        options.warmUp = warmUp;
        options.timed = timed;
        options.threads = 2;
        options.natural = true;
        return options;
    }

    @Test
    public void answersAreAsLongAsAskedAndTheSustainedPartIsInWindows() throws Exception {
        Fixtures.loadRuntime();
        List<Benchmark.Question> questions =
                Collections.singletonList(
                        new Benchmark.Question("0.png", Fixtures.photo(Fixtures.file("images/easy-vqa-0.png")), "What?"));
        Benchmark.Options options = options(0, 2);
        options.natural = false;
        options.newTokens = 9;
        options.sustainedSeconds = 1;
        Map<String, Object> record =
                new Benchmark(Fixtures.BUNDLE, questions, platform(new int[1], "none"), options).run("test");
        File file = folder.newFile("sustained.json");
        Files.write(file, Json.write(record).getBytes(StandardCharsets.UTF_8));
        Map<?, ?> back = (Map<?, ?>) ((List<?>) Fixtures.python("record", file.getPath())).get(0);
        Map<?, ?> settings = (Map<?, ?>) back.get("settings");
        assertEquals(9, ((Number) settings.get("new_tokens")).intValue());
        assertEquals(true, settings.get("ignore_stop"));
        assertEquals(2 * 8, ((List<?>) ((Map<?, ?>) back.get("samples")).get("inter_token")).size());
        List<?> windows = (List<?>) ((Map<?, ?>) back.get("sustained")).get("windows");
        assertEquals(1, windows.size());
        Map<?, ?> window = (Map<?, ?>) windows.get(0);
        int answers = ((Number) window.get("answers")).intValue();
        assertEquals(9 * answers, ((Number) window.get("tokens")).intValue());
        Map<?, ?> energy = (Map<?, ?>) ((List<?>) back.get("energy")).get(0);
        assertEquals(9 * answers, ((Number) energy.get("tokens")).intValue());
        double seconds = ((Number) energy.get("seconds")).doubleValue();
        assertEquals("2 W all the time", 2 * seconds, ((Number) energy.get("joules")).doubleValue(), 1e-6);
        assertTrue(((Number) ((Map<?, ?>) back.get("memory")).get("pss_bytes")).longValue() > 1 << 20);
    }

    private static Benchmark.Platform platform(int[] progress, String thermalState) {
        return new Benchmark.Platform() {
            @Override
            public Map<String, Object> device() {
                Map<String, Object> device = new LinkedHashMap<>();
                device.put("name", "desktop JVM");
                device.put("kind", "computer");
                return device;
            }

            @Override
            public Map<String, Object> reading() {
                Map<String, Object> reading = new LinkedHashMap<>();
                reading.put("battery_percent", 50.0);
                reading.put("thermal_state", thermalState);
                reading.put("power_w", Collections.singletonMap("battery", 2.0));
                return reading;
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
    }

    @Test
    public void aWrongAnswerMakesTheRunInvalid() {
        Fixtures.loadRuntime();
        int[] decoded = {0};
        Session.Photo changing =
                () -> {
                    String image = decoded[0]++ < 4 ? "images/easy-vqa-0.png" : "images/noisy-64x64.png";
                    return new Upright(Fixtures.image(Fixtures.file(image)), 1);
                };
        List<Benchmark.Question> questions =
                Collections.singletonList(new Benchmark.Question("0.png", changing, "what is the red shape?"));
        Benchmark.Platform platform = platform(new int[1], "none");
        Map<String, Object> record = new Benchmark(Fixtures.BUNDLE, questions, platform, options(0, 4)).run("test");
        assertEquals("invalid", record.get("verdict"));
        assertTrue(record.get("reasons").toString().contains("runs answered differently from the first"));
    }

    @Test
    public void aThrottledRunIsSemiValid() {
        Fixtures.loadRuntime();
        File image = Fixtures.file("images/easy-vqa-0.png");
        List<Benchmark.Question> questions =
                Collections.singletonList(new Benchmark.Question("0.png", Fixtures.photo(image), "What is this?"));
        Benchmark.Platform platform = platform(new int[1], "severe");
        Map<String, Object> record = new Benchmark(Fixtures.BUNDLE, questions, platform, options(0, 2)).run("test");
        assertEquals("semi-valid", record.get("verdict"));
        assertTrue(record.get("reasons").toString().contains("throttled"));
    }

    @Test
    public void spreadIsTakenFromEachQuestionsOwnMedian() {
        assertEquals(0, Benchmark.spread(Arrays.asList(1.0, 5.0, 1.0, 5.0), 2), 1e-12);
        assertEquals(0.5, Benchmark.spread(Arrays.asList(1.0, 1.0, 1.5, 1.0, 0.5), 1), 1e-12);
    }
}
