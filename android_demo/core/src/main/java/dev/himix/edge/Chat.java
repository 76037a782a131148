package dev.himix.edge;

import java.util.Arrays;

/**
 * A conversation on a session, see {@link Session#chat}. What was said stays in the cache; if another conversation took
 * the cache over, this one's tokens are written into it anew. An answer that was ended early counts as far as it was
 * heard.
 */
public final class Chat {
    private static final int[] NOTHING = {};

    final Session session;
    final ImageKV image;
    private final String system;
    private int[] history = NOTHING; // token ids in the cache behind the image
    private int[] pending = NOTHING; // said, but not in the cache yet: the last token of an answer

    Chat(Session session, ImageKV image, String system) {
        this.session = session;
        this.image = image;
        this.system = system;
    }

    /**
     * Says something and answers it.
     *
     * @return the answer's times and counts.
     * @throws InputException an empty prompt, or one that does not fit into what is left of the cache.
     */
    public Stats send(String prompt, Session.Options options, Session.Listener listener) {
        return session.say(this, prompt, options, listener);
    }

    /** Cache slots that are taken: the image's, and one for each token that was said. */
    public int used() {
        return (image == null ? 0 : image.tokens) + history.length;
    }

    /** Throws InputException before anything is computed. */
    Turn turn(String prompt, Session.Options options) {
        Sampler sampler = new Sampler(options.temperature, options.topP, options.seed);
        if (options.maxNewTokens < 1) {
            throw new InputException("max_new_tokens is " + options.maxNewTokens + "; it must be at least 1");
        }
        int capacity = session.bundle.capacity;
        int free = Math.max(capacity - used(), 0);
        int[] ids =
                history.length == 0
                        ? session.text.encodeQuestion(prompt, free, system)
                        : joined(pending, session.text.encodeNextTurn(prompt, free));
        int room = capacity - used() - ids.length;
        if (room < 1) {
            throw new InputException(
                    "the prompt does not fit: " + used() + " cache slots are used, it needs " + ids.length
                            + " and one for an answer, this model's context capacity is " + capacity
                            + "; shorten it" + (history.length == 0 ? "" : " or start a new chat"));
        }
        return new Turn(ids, Math.min(options.maxNewTokens, room), options.ignoreStop, sampler);
    }

    /** One message and its answer. */
    final class Turn {
        private final int[] ids;
        private final int limit;
        private final boolean ignoreStop;
        private final Sampler sampler;

        Turn(int[] ids, int limit, boolean ignoreStop, Sampler sampler) {
            this.ids = ids;
            this.limit = limit;
            this.ignoreStop = ignoreStop;
            this.sampler = sampler;
        }

        void stream(long began, Stats times, Session.Listener listener) {
            times.promptTokens = ids.length;
            times.visionTokens = image == null ? 0 : image.tokens;
            Stats.Clock clock = new Stats.Clock();
            float[] logits = feed(ids);
            times.prefill = clock.lap();
            times.finishReason = "length";
            TextStream stream = session.text.stream();
            while (times.newTokens < limit) {
                int token = sampler.pick(logits);
                if (!ignoreStop && session.text.isStop(token)) {
                    times.finishReason = "stop";
                    return;
                }
                pending = new int[] {token};
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
                    logits = feed(pending);
                    times.interToken.add(clock.lap());
                }
            }
        }
    }

    /** Appends tokens to the cache; if it holds another conversation, this one's come first. */
    private float[] feed(int[] ids) {
        int[] whole = joined(history, ids);
        boolean here = session.owner == this;
        session.owner = null; // nobody's, should the engine not come to its end
        if (!here) {
            session.engine.start(image);
        }
        float[] logits = session.engine.step(here ? ids : whole);
        history = whole;
        pending = NOTHING;
        session.owner = this;
        return logits;
    }

    private static int[] joined(int[] first, int[] second) {
        int[] both = Arrays.copyOf(first, first.length + second.length);
        System.arraycopy(second, 0, both, first.length, second.length);
        return both;
    }
}
