package dev.himix.edge.demo;

import dev.himix.edge.ExecuTorch;
import dev.himix.edge.InputException;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/** Programs on ExecuTorch's library for Android (org.pytorch:executorch-android). Only in the app's kind of that name. */
public final class AarProgram implements ExecuTorch.Program {
    private final Module module;

    private AarProgram(Module module) {
        this.module = module;
    }

    /** Called by its name, where the app has this class. */
    public static ExecuTorch.Loader loader() {
        return new ExecuTorch.Loader() {
            @Override
            public ExecuTorch.Program load(File file) {
                try {
                    return new AarProgram(Module.load(file.getPath()));
                } catch (RuntimeException error) { // its own kinds differ between versions
                    throw new InputException(file + ": ExecuTorch cannot load it: " + error.getMessage());
                }
            }
        };
    }

    @Override
    public ExecuTorch.Value[] run(String method, ExecuTorch.Value... inputs) {
        EValue[] given = new EValue[inputs.length];
        for (int i = 0; i < inputs.length; i++) {
            given[i] = EValue.from(tensor(inputs[i]));
        }
        EValue[] made;
        try {
            made = module.execute(method, given);
        } catch (RuntimeException error) {
            throw new InputException(method + ": ExecuTorch failed: " + error.getMessage());
        }
        ExecuTorch.Value[] values = new ExecuTorch.Value[made.length];
        for (int i = 0; i < made.length; i++) {
            Tensor tensor = made[i].toTensor();
            float[] numbers = tensor.getDataAsFloatArray();
            ByteBuffer data = ByteBuffer.allocateDirect(4 * numbers.length).order(ByteOrder.nativeOrder());
            data.asFloatBuffer().put(numbers);
            values[i] = new ExecuTorch.Value(ExecuTorch.Value.Kind.FLOAT, data, tensor.shape());
        }
        return values;
    }

    private static Tensor tensor(ExecuTorch.Value value) {
        switch (value.kind) {
            case UINT8:
                return Tensor.fromBlobUnsigned(value.data, value.shape);
            case INT64:
                return Tensor.fromBlob(value.data.asLongBuffer(), value.shape);
            default:
                return Tensor.fromBlob(value.data.asFloatBuffer(), value.shape);
        }
    }

    @Override
    public void close() {
        module.destroy();
    }
}
