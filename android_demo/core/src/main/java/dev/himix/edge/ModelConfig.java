package dev.himix.edge;

import java.util.Arrays;
import java.util.TreeSet;

/** What a session has to know of the model: the shapes of its cache, and which layers see the image. */
public final class ModelConfig {
    static final int MOST_PIXELS = 1 << 13;
    private static final int MOST = 1 << 20;

    public final String architecture; // "himix" or "vanilla"
    public final int layers;
    public final int keyValueHeads;
    public final int headDim;
    public final int vocabSize;
    public final int featureSize; // d_v
    public final int imageSize; // S, pixels

    /** For each decoder layer, which row of vision key and value it starts its cache with; -1: none. */
    final int[] visionRows;

    ModelConfig(Fields model) {
        architecture = model.string("architecture", "himix");
        if (!architecture.equals("himix") && !architecture.equals("vanilla")) {
            throw model.wrong("architecture", "himix or vanilla");
        }
        layers = (int) model.integer("num_hidden_layers", 1, 1024);
        int heads = (int) model.integer("num_attention_heads", 1, MOST);
        keyValueHeads = model.has("num_key_value_heads") ? (int) model.integer("num_key_value_heads", 1, MOST) : heads;
        headDim =
                model.has("head_dim")
                        ? (int) model.integer("head_dim", 1, MOST)
                        : (int) model.integer("hidden_size", 1, MOST) / heads;
        if (headDim < 1) {
            throw model.wrong("num_attention_heads", "at most hidden_size");
        }
        vocabSize = (int) model.integer("vocab_size", 1, 1 << 24);
        featureSize = (int) model.integer("vision_hidden_size", 1, MOST);
        Fields vision = model.object("vision_config");
        imageSize = (int) vision.integer("image_size", 1, MOST_PIXELS);
        visionRows = rows(model, vision);
    }

    private int[] rows(Fields model, Fields vision) {
        int[] injected = new int[layers];
        for (int i = 0; i < layers; i++) {
            injected[i] = i;
        }
        String sharing = "none";
        if (architecture.equals("himix") && model.has("injection")) {
            Fields injection = model.object("injection");
            // another way to inject gives other answers; the last three change the injector's own graph and no more
            injection.only("layers", "sharing", "positions", "mixing", "slots");
            if (!Arrays.asList("none", "sequence").contains(injection.string("positions", "none"))) {
                throw injection.wrong("positions", "none or sequence");
            }
            sharing = injection.string("sharing", "none");
            if (!Arrays.asList("none", "uniform", "levels").contains(sharing)) {
                throw injection.wrong("sharing", "none, uniform or levels");
            }
            if (injection.has("layers")) {
                injected = injection.integers("layers", 0, layers - 1);
                for (int i = 0; i < Math.max(injected.length, 1); i++) {
                    if (injected.length == 0 || i > 0 && injected[i] <= injected[i - 1]) {
                        throw injection.wrong("layers", "rising layer numbers");
                    }
                }
            }
        }
        int levels = 1;
        if (sharing.equals("levels") && vision.has("feature_layers")) {
            levels = vision.list("feature_layers").size();
            if (levels < 1 || levels > injected.length) {
                throw vision.wrong("feature_layers", "at least one, and at most as many as layers see the image");
            }
        }
        int[] rows = new int[layers];
        Arrays.fill(rows, -1);
        for (int i = 0; i < injected.length; i++) {
            rows[injected[i]] = sharing.equals("none") ? i : i * levels / injected.length;
        }
        return rows;
    }

    /** I, the distinct keys and values that an image has. */
    public int visionRowCount() {
        TreeSet<Integer> distinct = new TreeSet<Integer>();
        for (int row : visionRows) {
            if (row >= 0) {
                distinct.add(row);
            }
        }
        return distinct.size();
    }

    /** Rotary position of the first text token behind an image: HiMix's image has no positions. */
    public int firstTextPosition(int visionTokens) {
        return architecture.equals("vanilla") ? visionTokens : 0;
    }

    /** Bytes of one cache slot: float32 keys and values of all layers. */
    public long cacheBytesPerToken() {
        return 2L * layers * keyValueHeads * headDim * 4;
    }
}
