package dev.himix.edge.demo;

import dev.himix.edge.Benchmark;
import dev.himix.edge.Stats;
import java.util.Locale;

/** The times of an answer as a small table. */
final class Timings {
    private Timings() {}

    /** {@code image} has the picture's stages, null if its keys and values were kept from an earlier question. */
    static String table(Stats answer, Stats image) {
        StringBuilder out = new StringBuilder();
        double before = 0;
        if (image != null) {
            before = image.preprocess + image.visionEncoder + image.visionInjector;
            row(out, "preprocess", image.preprocess);
            row(out, "vision encoder", image.visionEncoder);
            row(out, "vision injector", image.visionInjector);
        } else if (answer.visionTokens > 0) {
            out.append("picture: keys and values kept\n");
        }
        row(out, "prefill", answer.prefill);
        if (answer.ttft > 0) {
            row(out, image == null ? "first token (warm)" : "first token", before + answer.ttft);
        }
        if (!answer.interToken.isEmpty()) {
            row(out, "each further token", Benchmark.median(answer.interToken));
        }
        out.append(
                String.format(
                        Locale.ROOT, "%d picture + %d prompt + %d answer tokens", answer.visionTokens,
                        answer.promptTokens, answer.newTokens));
        return out.toString();
    }

    private static void row(StringBuilder out, String name, double milliseconds) {
        out.append(String.format(Locale.ROOT, "%-19s%8.1f ms\n", name, milliseconds));
    }
}
