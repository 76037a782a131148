package dev.himix.edge;

import java.util.HashMap;
import java.util.Map;
import java.util.PriorityQueue;

/** Merges pairs of a word's tokens, the earliest rule first and its leftmost place; n tokens take n log n steps. */
final class BpeMerger {
    private static final class Merge {
        final int rank;
        final int id;

        Merge(int rank, int id) {
            this.rank = rank;
            this.id = id;
        }
    }

    private final Map<Long, Merge> merges = new HashMap<Long, Merge>();

    void add(int left, int right, int rank, int merged) {
        merges.put(key(left, right), new Merge(rank, merged));
    }

    private static long key(int left, int right) {
        return (long) left << 32 | right;
    }

    /** Merges the first {@code count} ids in place; returns how many are left. */
    int merge(int[] ids, int count) {
        int[] next = new int[count]; // of a token that was merged away: -1
        int[] before = new int[count];
        PriorityQueue<Long> waiting = new PriorityQueue<Long>(); // rank << 32 | place
        for (int i = 0; i < count; i++) {
            next[i] = i + 1;
            before[i] = i - 1;
        }
        for (int i = 0; i < count; i++) {
            look(ids, next, i, waiting);
        }
        while (!waiting.isEmpty()) {
            long first = waiting.poll();
            int place = (int) first;
            if (next[place] < 0 || next[place] >= count) {
                continue;
            }
            Merge merge = merges.get(key(ids[place], ids[next[place]]));
            if (merge == null || merge.rank != (int) (first >> 32)) {
                continue; // one of the two became another token since
            }
            int gone = next[place];
            ids[place] = merge.id;
            next[place] = next[gone];
            next[gone] = -1;
            if (next[place] < count) {
                before[next[place]] = place;
            }
            look(ids, next, place, waiting);
            if (before[place] >= 0) {
                look(ids, next, before[place], waiting);
            }
        }
        int left = 0;
        for (int i = 0; i < count; i = next[i]) {
            ids[left++] = ids[i];
        }
        return left;
    }

    private void look(int[] ids, int[] next, int place, PriorityQueue<Long> waiting) {
        Merge merge = next[place] < next.length ? merges.get(key(ids[place], ids[next[place]])) : null;
        if (merge != null) {
            waiting.add((long) merge.rank << 32 | place);
        }
    }
}
