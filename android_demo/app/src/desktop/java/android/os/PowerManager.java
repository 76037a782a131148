package android.os;

public class PowerManager {
    public int getCurrentThermalStatus() {
        return 0;
    }

    public float getThermalHeadroom(int seconds) {
        return 0.5f;
    }
}
