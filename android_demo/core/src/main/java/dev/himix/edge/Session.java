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
        boolean ignoreStop; // answers go on past a stop token, for a benchmark

        Options(Bundle bundle) {
            maxNewTokens = bundle.maxNewTokens;
            temperature = bundle.temperature;
            topP = bundle.topP;
        }
    }

    public final Bundle bundle;
    final Engine engine;
    final TextProcessor text;
    Chat owner; // whose tokens are in the cache
    private Stats stats = new Stats();
    private boolean answering;
    private boolean closed;

    private Session(Bundle bundle, int threads, Stop stop) {
        this.bundle = bundle;
        File tokenizer = new File(bundle.folder, Bundle.TOKENIZER);
        text = new TextProcessor(Tokenizer.load(tokenizer, bundle.model.vocabSize), bundle.template);
        engine =
                bundle.target.equals("executorch")
                        ? new ExecuTorchEngine(bundle, stop)
                        : new OnnxEngine(bundle, threads, stop);
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
        return open(bundle, threads, Stop.NEVER);
    }

    /** As above; {@code stop} may end it between two graphs. What was opened until then is closed. */
    public static Session open(Bundle bundle, int threads, Stop stop) {
        return new Session(bundle, threads, stop);
    }

    /** An image's keys and values, to be used under any prompt; {@link #stats} has the times of its stages. */
    public ImageKV encodeImage(Photo photo) {
        return encodeImage(photo, Stop.NEVER);
    }

    /** As above; {@code stop} may end it between its stages. */
    public synchronized ImageKV encodeImage(Photo photo, Stop stop) {
        checkFree();
        return encode(photo, stop);
    }

    private ImageKV encode(Photo photo, Stop stop) {
        stats = new Stats();
        Stats.Clock clock = new Stats.Clock();
        stop.check();
        byte[] pixels = Resize.toSquare(photo.decode(), bundle.model.imageSize, bundle.filter);
        stats.preprocess = clock.lap();
        stop.check();
        engine.encode(pixels);
        stats.visionEncoder = clock.lap();
        stop.check();
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
        return say(new Chat(this, image, ""), System.nanoTime(), new Stats(), prompt, options, listener);
    }

    /** Answers one question about a new image; its ttft includes the image's stages. Arguments as above. */
    public synchronized Stats generate(String prompt, Photo photo, Options options, Listener listener) {
        checkFree();
        long began = System.nanoTime();
        ImageKV encoded = encode(photo, Stop.NEVER);
        try {
            return say(new Chat(this, encoded, ""), began, stats, prompt, options, listener);
        } finally {
            owner = null; // the next chat about this image has another ImageKV
            encoded.close();
        }
    }

    /**
     * A conversation of several turns; each turn adds to the cache, nothing is computed twice. Several may be open: the
     * one that speaks takes over the cache.
     *
     * @param image as in {@link #generate}; it has to stay open as long as the conversation goes on.
     * @param system a system message in front of the conversation; "": the template's own, if it has one.
     * @throws InputException an ImageKV of another model.
     */
    public Chat chat(ImageKV image, String system) {
        checkFits(image);
        return new Chat(this, image, system);
    }

    synchronized Stats say(Chat chat, String prompt, Options options, Listener listener) {
        checkFree();
        return say(chat, System.nanoTime(), new Stats(), prompt, options, listener);
    }

    private Stats say(
            Chat chat, long began, Stats times, String prompt, Options options, Listener listener) {
        stats = times;
        checkFits(chat.image);
        Chat.Turn turn = chat.turn(prompt, options);
        answering = true;
        try {
            turn.stream(began, times, listener);
        } finally {
            answering = false;
        }
        return times;
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
        if (!closed) {
            closed = true;
            engine.close();
        }
    }
}
