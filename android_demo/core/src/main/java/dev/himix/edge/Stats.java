package dev.himix.edge;

import java.util.ArrayList;
import java.util.List;

/** Times of the last answer, in milliseconds; an image stage is 0 if its ImageKV was given. */
public final class Stats {
    public double preprocess;
    public double visionEncoder;
    public double visionInjector;
    public double prefill;
    public double ttft; // from the call to the first non-empty text, image stages included; 0: there was none
    public final List<Double> interToken = new ArrayList<Double>(); // of each token behind the first
    public int promptTokens;
    public int visionTokens;
    public int newTokens;
    public String finishReason = ""; // "stop": the model ended its answer, "length": the limit or the cache's end

    /** Milliseconds between calls. */
    static final class Clock {
        private long then = System.nanoTime();

        double lap() {
            long now = System.nanoTime();
            double elapsed = (now - then) / 1e6;
            then = now;
            return elapsed;
        }
    }
}
