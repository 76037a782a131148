package dev.himix.edge;

import dev.himix.edge.OnnxGraph.Tensor;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;

/**
 * The three graphs of a bundle and one KV cache. Past and present of every layer are the same memory, so a step copies
 * no cache. The cache is outside Java's heap, in the graphs' own type: float, or half precision where they take it.
 *
 * <p>Shapes: S image size, N vision tokens, d_v their width, I distinct keys and values of an image, L layers, G
 * key/value heads, C cache slots, h head dim, V vocabulary.
 */
final class OnnxEngine implements Engine {
    private final ModelConfig model;
    private final int capacity;
    private final List<OnnxGraph> opened = new ArrayList<OnnxGraph>();
    private final List<Tensor> reserved = new ArrayList<Tensor>();
    private final OnnxGraph encoder;
    private final OnnxGraph injector;
    private final OnnxGraph decoder;
    private final Tensor image; // uint8 (1, S, S, 3)
    private final Tensor features; // float (1, N, d_v)
    private final Tensor visionKey; // float (I, G, N, h)
    private final Tensor visionValue;
    private final boolean half; // whether keys and values are float16
    private final List<Tensor> past = new ArrayList<Tensor>(); // key, value of layer 0, of layer 1, ...: (1, G, C, h)
    private final List<Tensor> outputs = new ArrayList<Tensor>();
    private final Tensor logits; // float (1, V)
    private final Tensor lastSlot = Tensor.small("seqlens_k", Tensor.INT32, 1);
    private final Tensor total = Tensor.small("total_sequence_length", Tensor.INT32);
    private int length; // slots filled
    private int position; // of the next text token

    /** Throws InputException if ONNX Runtime refuses a graph or its shapes contradict the manifest. */
    OnnxEngine(Bundle bundle, int threads, Stop stop) {
        model = bundle.model;
        capacity = bundle.capacity;
        long heads = model.keyValueHeads;
        long side = model.imageSize;
        long rows = model.visionRowCount();
        long slots = bundle.visionTokens;
        try {
            encoder = open(bundle, "vision_encoder", threads, stop);
            injector = open(bundle, "vision_injector", threads, stop);
            decoder = open(bundle, "decoder", threads, stop);
            image = made(encoder, false, "image", Tensor.UINT8, 1, side, side, 3);
            features = made(encoder, true, "vision_features", Tensor.FLOAT, 1, slots, model.featureSize);
            injector.expect(false, "vision_features", Tensor.FLOAT, 1, slots, model.featureSize);
            visionKey = made(injector, true, "vision_key", Tensor.FLOAT, rows, heads, slots, model.headDim);
            visionValue = made(injector, true, "vision_value", Tensor.FLOAT, rows, heads, slots, model.headDim);
            logits = made(decoder, true, "logits", Tensor.FLOAT, 1, model.vocabSize);
            outputs.add(logits);
            half = decoder.type(false, "past_key_values.0.key") == Tensor.FLOAT16;
            makeCache(heads);
            stop.check();
        } catch (Throwable error) { // whatever it is, nobody else can give these back
            close();
            throw error;
        }
    }

    /** Memory for a tensor that the graph has: compared first, since a manifest may say any size. */
    private Tensor made(OnnxGraph graph, boolean output, String name, int type, long... shape) {
        graph.expect(output, name, type, shape);
        Tensor tensor = Tensor.reserve(name, type, shape);
        reserved.add(tensor);
        return tensor;
    }

    private OnnxGraph open(Bundle bundle, String role, int threads, Stop stop) {
        stop.check();
        OnnxGraph graph = new OnnxGraph(bundle.roleFile(role), threads);
        opened.add(graph);
        return graph;
    }

    private void makeCache(long heads) {
        for (int layer = 0; layer < model.layers; layer++) {
            for (String kind : new String[] {"key", "value"}) {
                String name = "past_key_values." + layer + "." + kind;
                String present = "present." + layer + "." + kind;
                int type = half ? Tensor.FLOAT16 : Tensor.FLOAT;
                Tensor cache = made(decoder, false, name, type, 1, heads, capacity, model.headDim);
                decoder.expect(true, present, type, cache.shape);
                past.add(cache);
                outputs.add(cache.as(present));
            }
        }
    }

    @Override
    public void encode(byte[] pixels) {
        image.buffer.clear();
        image.buffer.put(pixels);
        encoder.run(Collections.singletonList(image), Collections.singletonList(features));
    }

    @Override
    public ImageKV inject(String modelId) {
        injector.run(Collections.singletonList(features), Arrays.asList(visionKey, visionValue));
        int tokens = (int) visionKey.shape[2];
        ImageKV made =
                new ImageKV(
                        half, model.visionRowCount(), model.keyValueHeads, tokens, model.headDim, modelId,
                        model.firstTextPosition(tokens));
        made.fill(visionKey.buffer.asFloatBuffer(), visionValue.buffer.asFloatBuffer());
        return made;
    }

    @Override
    public void start(ImageKV vision) {
        length = vision == null ? 0 : vision.tokens;
        position = vision == null ? 0 : vision.nextPosition;
        if (vision == null) {
            return;
        }
        for (int layer = 0; layer < model.layers; layer++) {
            int row = model.visionRows[layer];
            for (int kind = 0; row >= 0 && kind < 2; kind++) {
                ByteBuffer cache = past.get(2 * layer + kind).buffer;
                for (int head = 0; head < model.keyValueHeads; head++) {
                    vision.copy(kind == 0, row, head, cache, head * capacity * model.headDim, half);
                }
            }
        }
    }

    @Override
    public float[] step(int[] tokens) {
        Tensor ids = Tensor.small("input_ids", Tensor.INT64, 1, tokens.length);
        Tensor positions = Tensor.small("position_ids", Tensor.INT64, 1, tokens.length);
        for (int i = 0; i < tokens.length; i++) {
            ids.buffer.putLong(i * 8, tokens[i]);
            positions.buffer.putLong(i * 8, position + i);
        }
        length += tokens.length;
        position += tokens.length;
        lastSlot.buffer.putInt(0, length - 1);
        total.buffer.putInt(0, length);
        List<Tensor> inputs = new ArrayList<Tensor>(Arrays.asList(ids, positions, lastSlot, total));
        inputs.addAll(past);
        decoder.run(inputs, outputs);
        FloatBuffer from = logits.buffer.asFloatBuffer();
        float[] scores = new float[from.remaining()];
        from.get(scores);
        for (float score : scores) {
            if (!(score < Float.POSITIVE_INFINITY)) {
                throw new InputException("the model's output is not a number; the bundle or the ImageKV is damaged");
            }
        }
        return scores;
    }

    @Override
    public void close() {
        for (OnnxGraph graph : opened) {
            graph.close();
        }
        opened.clear();
        for (Tensor tensor : reserved) {
            NativeMemory.release(tensor.buffer);
        }
        reserved.clear();
    }
}
