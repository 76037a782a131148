package org.pytorch.executorch;

import dev.himix.edge.Json;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A program in ExecuTorch's Python runtime, in a process of its own (run_program.py). */
public class Module {
    private final Process process;
    private final DataOutputStream to;
    private final DataInputStream from;

    private Module(Process process) {
        this.process = process;
        to = new DataOutputStream(process.getOutputStream());
        from = new DataInputStream(process.getInputStream());
    }

    public static Module load(String file) {
        try {
            return new Module(
                    new ProcessBuilder(System.getProperty("himix.python"), "android_demo/run_program.py", file)
                            .directory(new File(System.getProperty("himix.root")))
                            .redirectError(ProcessBuilder.Redirect.INHERIT)
                            .start());
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    public EValue[] execute(String method, EValue... inputs) {
        Map<String, Object> asked = new LinkedHashMap<>();
        List<Object> tensors = new ArrayList<>();
        for (EValue input : inputs) {
            Map<String, Object> tensor = new LinkedHashMap<>();
            tensor.put("type", input.toTensor().type);
            List<Object> shape = new ArrayList<>();
            for (long dimension : input.toTensor().shape) {
                shape.add(dimension);
            }
            tensor.put("shape", shape);
            tensors.add(tensor);
        }
        asked.put("method", method);
        asked.put("inputs", tensors);
        try {
            byte[] header = Json.write(asked).getBytes(StandardCharsets.UTF_8);
            to.writeInt(header.length);
            to.write(header);
            for (EValue input : inputs) {
                to.write(input.toTensor().bytes);
            }
            to.flush();
            return outputs();
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    private EValue[] outputs() throws IOException {
        EValue[] outputs = new EValue[from.readInt()];
        for (int i = 0; i < outputs.length; i++) {
            long[] shape = new long[from.readInt()];
            int count = 1;
            for (int j = 0; j < shape.length; j++) {
                shape[j] = from.readInt();
                count *= (int) shape[j];
            }
            byte[] bytes = new byte[4 * count];
            from.readFully(bytes);
            outputs[i] = EValue.from(new Tensor("float32", bytes, shape));
        }
        return outputs;
    }

    public void destroy() {
        process.destroy();
    }
}
