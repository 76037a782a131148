package dev.himix.edge;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Date;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TimeZone;

/**
 * Times a bundle on this device and writes himix-edge's benchmark record, schema version 2: milliseconds, every sample
 * kept. Five questions about five pictures take turns; each iteration asks one twice: with the image as a file, then
 * with its keys and values kept. Every answer is compared with the first one to the same question, so that a fast wrong
 * answer cannot pass. The verdict follows the rules of himix-edge's own harness, as far as a phone can tell.
 */
public final class Benchmark {
    /** One question about one picture. */
    public static final class Question {
        public final String image; // file name
        final Session.Photo photo;
        final String prompt;

        public Question(String image, Session.Photo photo, String prompt) {
            this.image = image;
            this.photo = photo;
            this.prompt = prompt;
        }
    }

    /** How to measure; the fields are those of the record's settings, the values himix-edge's own defaults. */
    public static final class Options {
        public int warmUp = 3;
        public int timed = 20;
        public int threads; // 0 leaves the choice to ONNX Runtime
        public int newTokens = 32;
        public boolean natural; // answers end where the model ends them; otherwise each has newTokens
        public int sustainedSeconds; // of questions without a pause behind the timed ones
    }

    /** What only the platform knows. */
    public interface Platform {
        /** The record's "device": name, kind, os and so on. */
        Map<String, Object> device();

        /** One entry of "readings" without its time: battery, temperature; may be empty. */
        Map<String, Object> reading();

        Session.Photo photo(File file);

        void progress(int done, int of);
    }

    private static final int ITEMS = 5;
    private static final double SPREAD = 0.15; // of a time: how far 9 in 10 may be from their own question's median

    private final File folder;
    private final List<Question> questions;
    private final Platform platform;
    private final Options options;
    private final long began = System.nanoTime();
    private final Map<String, List<Double>> samples = new LinkedHashMap<String, List<Double>>();
    private final Map<String, Map<String, Object>> answers = new LinkedHashMap<String, Map<String, Object>>();
    private final List<Object> readings = new ArrayList<Object>();
    private boolean throttled;

    /**
     * @param questions one after the other of them about each picture; of the first five pictures, the one question
     *     each that takes turns is another one of the picture's.
     */
    public Benchmark(File folder, List<Question> questions, Platform platform, Options options) {
        if (questions.isEmpty() || options.warmUp < 0 || options.timed < 1 || options.newTokens < 1) {
            throw new InputException(
                    "a benchmark needs questions, 0 or more warm-ups, at least 1 timed iteration and 1 new token");
        }
        this.folder = folder;
        this.questions = oneForEachPicture(questions);
        this.platform = platform;
        this.options = options;
    }

    /** Milliseconds of opening a bundle, every hash checked; it is closed again. Throws InputException as opening does. */
    public static double load(File folder, int threads) {
        Stats.Clock clock = new Stats.Clock();
        Session session = Session.open(folder, threads);
        double time = clock.lap();
        session.close();
        return time;
    }

    /**
     * Measures; takes a while. Opening the bundle counts as "load_warm": an app cannot make the system forget files.
     *
     * @param command how it was started, for the record.
     * @return the record, for {@link Json#write}.
     */
    public Map<String, Object> run(String command) {
        long baseline = processMemory("status", "VmRSS");
        String started = utcNow();
        Stats.Clock clock = new Stats.Clock();
        Session session = Session.open(folder, options.threads);
        add("load_warm", clock.lap());
        try {
            boolean selfTest =
                    SelfTest.run(session, platform.photo(new File(folder, session.bundle.selfTest.image))).passed;
            int iterations = options.warmUp + options.timed;
            int all = iterations + (int) (options.sustainedSeconds / Sustained.WINDOW_S);
            for (int i = 0; i < iterations; i++) {
                iteration(session, questions.get(i % questions.size()), i >= options.warmUp);
                platform.progress(i + 1, all);
                takeReading();
            }
            Sustained sustained = null;
            if (options.sustainedSeconds > 0) {
                sustained = new Sustained(platform, options.sustainedSeconds);
                while (!sustained.over()) {
                    Question question = questions.get(sustained.answers() % questions.size());
                    sustained.add(cold(session, question));
                    platform.progress(Math.min(all, iterations + sustained.windows()), all);
                }
            }
            return record(session.bundle, command, started, baseline, selfTest, sustained);
        } finally {
            session.close();
        }
    }

    private static List<Question> oneForEachPicture(List<Question> questions) {
        Map<String, List<Question>> about = new LinkedHashMap<String, List<Question>>();
        for (Question question : questions) {
            if (!about.containsKey(question.image)) {
                about.put(question.image, new ArrayList<Question>());
            }
            about.get(question.image).add(question);
        }
        List<Question> chosen = new ArrayList<Question>();
        for (List<Question> choice : about.values()) {
            if (chosen.size() < ITEMS) {
                chosen.add(choice.get(chosen.size() % choice.size()));
            }
        }
        return chosen;
    }

    private Session.Options answering(Session session) {
        Session.Options answering = session.defaults();
        answering.temperature = 0;
        answering.maxNewTokens = options.newTokens;
        answering.ignoreStop = !options.natural;
        return answering;
    }

    /** A question about its image as a file. */
    private Stats cold(Session session, Question question) {
        Transcript transcript = new Transcript();
        Stats stats = session.generate(question.prompt, question.photo, answering(session), transcript);
        check(question, transcript);
        return stats;
    }

    private void iteration(Session session, Question question, boolean counted) {
        Stats cold = cold(session, question);
        ImageKV kept = session.encodeImage(question.photo);
        Transcript transcript = new Transcript();
        Stats warm;
        try {
            warm = session.generate(question.prompt, kept, answering(session), transcript);
        } finally {
            kept.close();
        }
        check(question, transcript);
        if (!counted) {
            return;
        }
        add("preprocess", cold.preprocess);
        add("vision_encoder", cold.visionEncoder);
        add("vision_injector", cold.visionInjector);
        add("prefill", cold.prefill);
        add("ttft", cold.ttft);
        add("warm_ttft", warm.ttft);
        for (double time : cold.interToken) {
            add("inter_token", time);
        }
    }

    /** The tokens and the text of one answer. */
    private static final class Transcript implements Session.Listener {
        final StringBuilder ids = new StringBuilder();
        final StringBuilder text = new StringBuilder();

        @Override
        public boolean onToken(int token, String piece) {
            ids.append(ids.length() == 0 ? "" : ",").append(token);
            text.append(piece);
            return true;
        }
    }

    private void check(Question question, Transcript transcript) {
        String digest = Files.sha256(transcript.ids.toString().getBytes(StandardCharsets.US_ASCII));
        String key = question.image + '\n' + question.prompt;
        Map<String, Object> answer = answers.get(key);
        if (answer == null) {
            answer = new LinkedHashMap<String, Object>();
            answer.put("prompt", question.prompt);
            answer.put("images", Collections.singletonList(question.image));
            answer.put("text", transcript.text.toString());
            answer.put("token_ids_sha256", digest);
            answer.put("runs", 0);
            answer.put("equal_runs", 0);
            answers.put(key, answer);
        }
        answer.put("runs", (Integer) answer.get("runs") + 1);
        if (answer.get("token_ids_sha256").equals(digest)) {
            answer.put("equal_runs", (Integer) answer.get("equal_runs") + 1);
        }
    }

    private void add(String sample, double milliseconds) {
        if (!samples.containsKey(sample)) {
            samples.put(sample, new ArrayList<Double>());
        }
        samples.get(sample).add(milliseconds);
    }

    private void takeReading() {
        Map<String, Object> values = platform.reading();
        Object thermal = values.get("thermal_state");
        throttled |= thermal != null && !thermal.equals("none") && !thermal.equals("light");
        if (!values.isEmpty()) {
            Map<String, Object> reading = new LinkedHashMap<String, Object>();
            reading.put("at_s", (System.nanoTime() - began) / 1e9);
            reading.putAll(values);
            readings.add(reading);
        }
    }

    private Map<String, Object> record(
            Bundle bundle, String command, String started, long baseline, boolean selfTest, Sustained sustained) {
        Map<String, Object> record = new LinkedHashMap<String, Object>();
        record.put("schema_version", 2);
        record.put("started", started);
        record.put("command", command);
        record.put("harness", "himix-edge Android demo " + AppVersion.NAME);
        record.put("device", platform.device());
        Map<String, Object> facts = new LinkedHashMap<String, Object>();
        facts.put("name", bundle.name);
        facts.put("target", bundle.target);
        facts.put("precision", bundle.precision);
        facts.put("activations", bundle.activations);
        facts.put("architecture", bundle.model.architecture);
        facts.put("manifest_sha256", Files.sha256(new File(bundle.folder, Bundle.MANIFEST)));
        facts.put("bytes", bundle.bytes());
        facts.put("decoder_bytes", bundle.decoderBytes());
        facts.put("kv_bytes_per_token", bundle.model.cacheBytesPerToken());
        facts.put("context_capacity", bundle.capacity);
        record.put("bundle", facts);
        Map<String, Object> settings = new LinkedHashMap<String, Object>();
        settings.put("warm_up", options.warmUp);
        settings.put("timed", options.timed);
        settings.put("mode", "cold-image");
        settings.put("threads", options.threads == 0 ? null : options.threads);
        settings.put("images", 1);
        settings.put("vision_tokens", bundle.visionTokens);
        settings.put("new_tokens", options.newTokens);
        settings.put("ignore_stop", !options.natural);
        if (sustained != null) {
            settings.put("sustained_s", options.sustainedSeconds);
        }
        settings.put("provider", "cpu");
        record.put("settings", settings);
        record.put("samples", samples);
        Map<String, Object> memory = new LinkedHashMap<String, Object>();
        memory.put("baseline_bytes", baseline < 0 ? null : baseline);
        long peak = processMemory("status", "VmHWM");
        memory.put("peak_bytes", peak < 0 ? null : peak);
        memory.put("kv_cache_bytes", bundle.model.cacheBytesPerToken() * bundle.capacity);
        long share = processMemory("smaps_rollup", "Pss");
        if (share >= 0) {
            memory.put("pss_bytes", share);
            memory.put("pss_source", "smaps_rollup");
        }
        record.put("memory", memory);
        record.put("readings", readings);
        if (sustained != null) {
            record.put("sustained", sustained.record());
            record.put("energy", sustained.energy());
        }
        record.put("self_test_passed", selfTest);
        record.put("answers", new ArrayList<Object>(answers.values()));
        List<String> wrong = wrong(selfTest);
        List<String> doubts = doubts();
        record.put("verdict", !wrong.isEmpty() ? "invalid" : doubts.isEmpty() ? "valid" : "semi-valid");
        record.put("reasons", wrong.isEmpty() ? doubts : wrong);
        record.put("versions", Collections.singletonMap("onnxruntime", OnnxRuntime.version()));
        return record;
    }

    /** Why the answers cannot be trusted. */
    private List<String> wrong(boolean selfTest) {
        List<String> reasons = new ArrayList<String>();
        if (!selfTest) {
            reasons.add("the bundle's self-test gives another answer on this device");
        }
        for (Map<String, Object> answer : answers.values()) {
            int runs = (Integer) answer.get("runs");
            int off = runs - (Integer) answer.get("equal_runs");
            if (off > 0) {
                reasons.add(
                        "'" + answer.get("prompt") + "': " + off + " of " + runs
                                + " runs answered differently from the first");
            }
        }
        return reasons;
    }

    /** Why the times may not be those of a quiet, cool device. */
    private List<String> doubts() {
        List<String> reasons = new ArrayList<String>();
        for (String stage : new String[] {"ttft", "warm_ttft", "prefill"}) {
            double off = spread(samples.get(stage), questions.size());
            if (off > SPREAD) {
                reasons.add(
                        String.format(
                                Locale.ROOT, "%s varies too much: 1 in 10 is off by over %.0f%% (limit %.0f%%)", stage,
                                100 * off, 100 * SPREAD));
            }
        }
        if (throttled) {
            reasons.add("the device throttled itself during the run");
        }
        return reasons;
    }

    /**
     * 90th percentile of how far, as a share, a sample is from its own question's median; sample i and sample i +
     * {@code period} are of the same question.
     */
    static double spread(List<Double> samples, int period) {
        List<Double> off = new ArrayList<Double>();
        for (int first = 0; first < period; first++) {
            List<Double> own = new ArrayList<Double>();
            for (int i = first; i < samples.size(); i += period) {
                own.add(samples.get(i));
            }
            double middle = own.size() > 1 ? median(own) : 0;
            for (double value : own) {
                if (middle > 0) {
                    off.add(Math.abs(value / middle - 1));
                }
            }
        }
        Collections.sort(off);
        return off.isEmpty() ? 0 : off.get((int) (0.9 * (off.size() - 1)));
    }

    /** The middle value; of an even number the mean of both. */
    public static double median(List<Double> values) {
        List<Double> sorted = new ArrayList<Double>(values);
        Collections.sort(sorted);
        int middle = sorted.size() / 2;
        return sorted.size() % 2 == 1 ? sorted.get(middle) : (sorted.get(middle - 1) + sorted.get(middle)) / 2;
    }

    /** A size from a file of /proc/self in bytes, or -1. */
    private static long processMemory(String file, String field) {
        try {
            String text = new String(Files.read(new File("/proc/self", file), 1 << 20), StandardCharsets.US_ASCII);
            for (String line : text.split("\n")) {
                if (line.startsWith(field + ":")) {
                    return Long.parseLong(line.replaceAll("[^0-9]", "")) << 10;
                }
            }
        } catch (InputException error) {
            return -1; // no /proc here, or an older kernel
        }
        return -1;
    }

    private static String utcNow() {
        SimpleDateFormat format = new SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'Z'", Locale.ROOT);
        format.setTimeZone(TimeZone.getTimeZone("UTC"));
        return format.format(new Date());
    }
}
