package dev.himix.edge;

import java.util.ArrayList;
import java.util.List;

/** Collects an answer. */
final class Answer implements Session.Listener {
    final List<Integer> tokens = new ArrayList<>();
    final List<String> pieces = new ArrayList<>();

    @Override
    public boolean onToken(int token, String text) {
        tokens.add(token);
        pieces.add(text);
        return true;
    }

    int[] ids() {
        return tokens.stream().mapToInt(i -> i).toArray();
    }

    static Session.Options greedy(int maxNewTokens) {
        Session.Options options = Fixtures.session().defaults();
        options.temperature = 0;
        options.maxNewTokens = maxNewTokens;
        return options;
    }
}
