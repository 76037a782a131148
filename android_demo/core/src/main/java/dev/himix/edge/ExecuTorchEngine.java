package dev.himix.edge;

import dev.himix.edge.ExecuTorch.Value;
import java.nio.FloatBuffer;
import java.util.Arrays;

/** The methods of one program, which keeps the cache: see runtimes/executorch/engine.py. Shapes as in {@link OnnxEngine}. */
final class ExecuTorchEngine implements Engine {
    private final ModelConfig model;
    private final int visionTokens;
    private final ExecuTorch.Program program;
    private Value features; // float (1, N, d_v)
    private int length; // slots filled
    private int position; // of the next text token

    /** Throws InputException if ExecuTorch refuses the program. It takes the threads that it wants. */
    ExecuTorchEngine(Bundle bundle, Stop stop) {
        model = bundle.model;
        visionTokens = bundle.visionTokens;
        stop.check();
        program = ExecuTorch.loader().load(bundle.roleFile("decoder"));
        try {
            stop.check();
        } catch (Throwable error) { // whatever it is, nobody else can give the program back
            program.close();
            throw error;
        }
    }

    @Override
    public void encode(byte[] pixels) {
        Value image = Value.zeros(Value.Kind.UINT8, 1, model.imageSize, model.imageSize, 3);
        image.data.put(pixels).rewind();
        features = run("vision_encoder", 1, image)[0];
        expect("vision_encoder", features, 1, visionTokens, model.featureSize);
    }

    @Override
    public ImageKV inject(String modelId) {
        Value[] made = run("vision_injector", 2, features);
        features = null;
        int rows = model.visionRowCount();
        for (Value value : made) {
            expect("vision_injector", value, rows, model.keyValueHeads, visionTokens, model.headDim);
        }
        ImageKV image =
                new ImageKV(
                        false, rows, model.keyValueHeads, visionTokens, model.headDim, modelId,
                        model.firstTextPosition(visionTokens));
        image.fill(made[0].data.asFloatBuffer(), made[1].data.asFloatBuffer());
        return image;
    }

    @Override
    public void start(ImageKV vision) {
        length = vision == null ? 0 : vision.tokens;
        position = vision == null ? 0 : vision.nextPosition;
        if (vision == null) {
            return;
        }
        Value[] both = new Value[2];
        for (int kind = 0; kind < 2; kind++) {
            both[kind] = Value.zeros(Value.Kind.FLOAT, vision.rows, vision.heads, vision.tokens, vision.headDim);
            for (int block = 0; block < vision.rows * vision.heads; block++) {
                int at = block * vision.tokens * vision.headDim;
                vision.copy(kind == 0, block / vision.heads, block % vision.heads, both[kind].data, at, false);
            }
        }
        program.run("start", both);
    }

    @Override
    public float[] step(int[] tokens) {
        Value ids = Value.zeros(Value.Kind.INT64, 1, tokens.length);
        Value used = Value.zeros(Value.Kind.INT64, 1);
        Value positions = Value.zeros(Value.Kind.INT64, 1, tokens.length);
        for (int i = 0; i < tokens.length; i++) {
            ids.data.putLong(i * 8, tokens[i]);
            positions.data.putLong(i * 8, position + i);
        }
        used.data.putLong(0, length);
        Value logits = run("decoder", 1, ids, used, positions)[0];
        FloatBuffer numbers = logits.data.asFloatBuffer();
        if (numbers.remaining() != model.vocabSize) {
            throw new InputException("decoder: " + Arrays.toString(logits.shape) + " is not one row of the vocabulary");
        }
        length += tokens.length;
        position += tokens.length;
        float[] scores = new float[numbers.remaining()];
        numbers.get(scores);
        return checked(scores);
    }

    private static float[] checked(float[] scores) {
        for (float score : scores) {
            if (!(score < Float.POSITIVE_INFINITY)) {
                throw new InputException("the model's output is not a number; the bundle or the ImageKV is damaged");
            }
        }
        return scores;
    }

    private Value[] run(String method, int outputs, Value... inputs) {
        Value[] made = program.run(method, inputs);
        if (made.length != outputs) {
            throw new InputException(method + " has " + made.length + " outputs, this app knows " + outputs);
        }
        return made;
    }

    private static void expect(String method, Value value, long... shape) {
        if (value.kind != Value.Kind.FLOAT || !Arrays.equals(value.shape, shape)) {
            throw new InputException(
                    method + " gives " + Arrays.toString(value.shape) + ", the manifest says " + Arrays.toString(shape));
        }
    }

    @Override
    public void close() {
        program.close();
    }
}
