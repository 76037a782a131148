package dev.himix.edge;

/** Whether somebody wants long work to end. Asked every few milliseconds, except while ONNX Runtime is at work. */
public interface Stop {
    Stop NEVER = new Stop() {
        @Override
        public void check() {}
    };

    /** Throws {@link Stopped} if the work has to end. */
    void check();

    /** Ended because somebody wanted it; nothing is wrong. */
    final class Stopped extends InputException {
        private static final long serialVersionUID = 1;

        public Stopped() {
            super("stopped");
        }
    }
}
