package dev.himix.edge;

import java.io.File;

/**
 * An open model: encode an image once, ask about it as often as you like. It has one KV cache, so calls from several
 * threads wait for each other, and a listener cannot ask in the middle of an answer.
 */
public final class Session {
    /** Receives an answer as it comes. */
    public interface Listener {
        /**
         * One token and the text it completes, empty inside a character of several bytes.
         *
         * @return false to end the answer here.
         */
        boolean onToken(int token, String text);
    }

    /** A picture that is decoded when it is needed, so that the time of decoding is counted. */
    public interface Photo {
        /** Throws InputException if it cannot be read as a picture. */
        Upright decode();
    }

    /** How to answer; starts as the model's defaults. */
    public static final class Options {
        public int maxNewTokens;
        public double temperature; // 0: greedy
        public double topP;
        public long seed;

        Options(Bundle bundle) {
            maxNewTokens = bundle.maxNewTokens;
            temperature = bundle.temperature;
            topP = bundle.topP;
        }
    }

    public final Bundle bundle;
    private final OnnxEngine engine;
    private final TextProcessor text;
    private Stats stats = new Stats();
    private boolean answering;
    private boolean closed;

    private Session(Bundle bundle, int threads) {
        this.bundle = bundle;
        File tokenizer = new File(bundle.folder, Bundle.TOKENIZER);
        text = new TextProcessor(Tokenizer.load(tokenizer, bundle.model.vocabSize), bundle.template);
        engine = new OnnxEngine(bundle, threads);
    }

    /**
     * Checks every hash of a bundle and opens it. {@link OnnxRuntime#load} has to come first.
     *
     * @param threads CPU threads; 0 leaves the choice to ONNX Runtime.
     * @throws InputException not a bundle, a damaged or missing file, a bundle for another runtime.
     */
    public static Session open(File folder, int threads) {
        return open(Bundle.open(folder), threads);
    }

    /** Opens a bundle that {@link Bundle#open} has checked. Throws InputException if ONNX Runtime refuses it. */
    public static Session open(Bundle bundle, int threads) {
        return new Session(bundle, threads);
    }

    /** An image's keys and values, to be used under any prompt; {@link #stats} has the times of its stages. */
    public synchronized ImageKV encodeImage(Photo photo) {
        checkFree();
        return encode(photo);
    }

    private ImageKV encode(Photo photo) {
        stats = new Stats();
        Stats.Clock clock = new Stats.Clock();
        byte[] pixels = Resize.toSquare(photo.decode(), bundle.model.imageSize, bundle.filter);
        stats.preprocess = clock.lap();
        engine.encode(pixels);
        stats.visionEncoder = clock.lap();
        ImageKV encoded = engine.inject(bundle.imageKvId);
        stats.visionInjector = clock.lap();
        return encoded;
    }

    public Options defaults() {
        return new Options(bundle);
    }

    /**
     * Answers one question.
     *
     * @param prompt what the user says.
     * @param image an image of {@link #encodeImage} or {@link ImageKV#load}; null: none.
     * @return the answer's times and counts.
     * @throws InputException an empty prompt, one that does not fit into the cache, an ImageKV of another model.
     */
    public synchronized Stats generate(String prompt, ImageKV image, Options options, Listener listener) {
        checkFree();
        return answer(System.nanoTime(), new Stats(), prompt, image, options, listener);
    }

    /** Answers one question about a new image; its ttft includes the image's stages. Arguments as above. */
    public synchronized Stats generate(String prompt, Photo photo, Options options, Listener listener) {
        checkFree();
        long began = System.nanoTime();
        ImageKV encoded = encode(photo);
        return answer(began, stats, prompt, encoded, options, listener);
    }

    private Stats answer(
            long began, Stats times, String prompt, ImageKV image, Options options, Listener listener) {
        stats = times;
        Sampler sampler = new Sampler(options.temperature, options.topP, options.seed);
        if (options.maxNewTokens < 1) {
            throw new InputException("max_new_tokens is " + options.maxNewTokens + "; it must be at least 1");
        }
        checkFits(image);
        int used = image == null ? 0 : image.tokens;
        int[] ids = text.encodeQuestion(prompt, Math.max(bundle.capacity - used, 0));
        int room = bundle.capacity - used - ids.length;
        if (room < 1) {
            throw new InputException(
                    "the prompt does not fit: " + used + " cache slots are used, it needs " + ids.length
                            + " and one for an answer, this model's context capacity is " + bundle.capacity
                            + "; shorten it");
        }
        times.promptTokens = ids.length;
        times.visionTokens = used;
        int limit = Math.min(options.maxNewTokens, room);
        answering = true;
        try {
            stream(began, times, image, ids, limit, sampler, listener);
        } finally {
            answering = false;
        }
        return times;
    }

    private void stream(
            long began, Stats times, ImageKV image, int[] ids, int limit, Sampler sampler, Listener listener) {
        Stats.Clock clock = new Stats.Clock();
        engine.start(image);
        float[] logits = engine.step(ids);
        times.prefill = clock.lap();
        times.finishReason = "length";
        TextStream stream = text.stream();
        while (times.newTokens < limit) {
            int token = sampler.pick(logits);
            if (text.isStop(token)) {
                times.finishReason = "stop";
                return;
            }
            times.newTokens++;
            String piece = stream.step(token) + (times.newTokens == limit ? stream.rest() : "");
            if (!piece.isEmpty() && times.ttft == 0) {
                times.ttft = (System.nanoTime() - began) / 1e6;
            }
            if (!listener.onToken(token, piece)) {
                times.finishReason = "stop";
                return;
            }
            if (times.newTokens < limit) {
                clock.lap();
                logits = engine.step(new int[] {token});
                times.interToken.add(clock.lap());
            }
        }
    }

    private void checkFree() {
        if (closed) {
            throw new InputException("this session is closed; open the bundle again");
        }
        if (answering) {
            throw new InputException("this session is in the middle of an answer; ask when it has ended");
        }
    }

    /** Throws InputException for an image that was not made by this model. */
    void checkFits(ImageKV image) {
        if (image == null) {
            return;
        }
        ModelConfig model = bundle.model;
        boolean fits = image.rows == model.visionRowCount() && image.heads == model.keyValueHeads
                && image.headDim == model.headDim
                && image.nextPosition == model.firstTextPosition(image.tokens);
        if (!image.modelId.equals(bundle.imageKvId) || !fits) {
            String made = image.modelId.isEmpty() ? "unknown" : image.modelId;
            throw new InputException(
                    "this ImageKV was made by another model (" + made + ", this one is " + bundle.imageKvId
                            + "); encode the image again");
        }
    }

    /** Times of the last call. */
    public synchronized Stats stats() {
        return stats;
    }

    /** Frees the graphs, after a running answer; another call throws InputException from then on. */
    public synchronized void close() {
        if (answering) {
            throw new InputException("this session is in the middle of an answer; close it when it has ended");
        }
        closed = true;
        engine.close();
    }
}
